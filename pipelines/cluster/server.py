"""The connection to a Kubeflow Pipelines server, and its errors in words.

Host, namespace and token come from where KFP's own client and command line take them. A token is only ever put into the
client's authorization header: no file, no parameter and no line of text gets it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.common.contracts.errors import ConfigError, UntaintError

__all__ = ["REQUEST_SECONDS", "ClusterError", "Server", "connect", "explained", "quiet"]

REQUEST_SECONDS = (10, 120)
"""Seconds to connect, and to wait for the answer of one request."""
_CONNECT_SECONDS = 10
_HOW_TO_REACH = (
    "Give its address with --host or KF_PIPELINES_ENDPOINT. With kubectl: "
    "kubectl port-forward -n kubeflow svc/ml-pipeline 8888 and KF_PIPELINES_ENDPOINT=http://127.0.0.1:8888."
)


class ClusterError(UntaintError):
    """The Kubeflow Pipelines server cannot be reached or refuses, or a cluster is not what a run needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A connected server.

    Attributes:
        client: ``kfp.Client``.
        host: Its base URL, without credentials.
        namespace: Namespace of experiments and runs; empty for a server of a single user.
        context: kubectl's context for the cluster of the server; empty for the current one.
    """

    client: Any
    host: str
    namespace: str
    context: str = ""

    def link(self, run_id: str) -> str:
        """Where the run is to be seen in the UI."""
        ui = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or self.host
        return f"{ui.rstrip('/')}/#/runs/details/{run_id}"


def connect(host: str = "", namespace: str = "", context: str = "") -> Server:
    """Connects to the server.

    Args:
        host: URL; by default that of ``KF_PIPELINES_ENDPOINT``, else the cluster of the current kubectl context.
        namespace: By default that of ``~/.config/kfp/context.json``; a server of a single user needs none.
        context: kubectl's context for the cluster of the server; empty for the current one.

    Raises:
        ConfigError: The address cannot be used.
        ClusterError: Nobody answers there, or the answer is a refusal.
    """
    host = host or os.environ.get("KF_PIPELINES_ENDPOINT", "")
    if host:
        host = _reachable(host)
    token = os.environ.get("KFP_EXISTING_TOKEN") or None
    with quiet(), explained(host or "the cluster of the current kubectl context"):
        import kfp

        class Client(kfp.Client):  # type: ignore[misc]
            def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
                # KFP's own asks five times, whatever the answer, and logs the answer's headers.
                return self.healthzs.healthz_service_get_healthz(_request_timeout=REQUEST_SECONDS)

        # KFP takes its default, kubeflow, for "not given", and then asks the context file.
        client = Client(host=host or None, namespace=namespace or "kubeflow", existing_token=token)
        client.get_kfp_healthz()
        found = str(client._existing_config.host)
    space = namespace or client.get_user_namespace() or ""
    return Server(client=client, host=found, namespace=space, context=context)


def _reachable(host: str) -> str:
    """The host as a URL at which something listens; the client itself would wait for minutes, and without a word."""
    url = host if "://" in host else f"https://{host}"
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        if not parts.hostname or parts.username or parts.password:
            raise ValueError
    except (ValueError, KeyError):
        raise ConfigError(
            "the host of Kubeflow Pipelines",
            expected="http(s)://name:port/path, without user and password",
            found="another form",
            hint="Correct KF_PIPELINES_ENDPOINT or --host; a token goes into KFP_EXISTING_TOKEN.",
        ) from None
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as problem:
        raise ClusterError(
            f"Kubeflow Pipelines at {url}",
            expected="a server that takes connections",
            found=problem.strerror or str(problem) or type(problem).__name__,
            hint=_HOW_TO_REACH,
        ) from None
    return url


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the prints of KFP's client and its notice about old servers from the user, inside the block."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns what KFP's client raises inside the block into a ``ClusterError``.

    Args:
        where: The server, for the message.

    Raises:
        ClusterError: The server refused or did not answer.
    """
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as problem:
        hints = {
            401: "Set KFP_EXISTING_TOKEN to a fresh token.",
            403: "Ask for access to the namespace, or name another with --namespace.",
            404: "Look at the id with `untaint runs list`, and at the host.",
        }
        # Headers of the answer may hold cookies, so only its message is shown.
        raise ClusterError(
            f"Kubeflow Pipelines at {where}",
            expected="the request done",
            found=f"HTTP {problem.status} {_reason(problem.body) or problem.reason}",
            hint=hints.get(problem.status, "The log of the ml-pipeline deployment tells more."),
        ) from None
    except (urllib3.exceptions.HTTPError, TimeoutError, OSError) as problem:
        raise ClusterError(
            f"Kubeflow Pipelines at {where}",
            expected="an answer",
            found=_cause(problem),
            hint=_HOW_TO_REACH,
        ) from None


def _cause(problem: BaseException) -> str:
    """The innermost cause in words: what urllib3 raises last only says that it tried often enough."""
    cause = getattr(problem, "reason", None) or problem
    said = getattr(cause, "strerror", None) or str(cause).rpartition(">: ")[2].rpartition(": ")[2]
    return " ".join(str(said).split())[:200] or type(cause).__name__


def _reason(body: Any) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        answer = json.loads(body)
        return " ".join(str(answer.get("message") or answer.get("error") or "").split())[:300]
    return ""
