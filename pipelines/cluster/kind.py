"""Kubernetes on this machine: a kind cluster with Kubeflow Pipelines, made step by step, and each step again at will.

Everything is done by the programs that a person would use, ``docker``, ``kind`` and ``kubectl``, so what is said when a
step does not succeed can be tried by hand. Secrets go to ``kubectl`` through its standard input, never as an argument.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConfigError, ResourceError
from pipelines.cluster.pods import DEFAULT_NAMESPACE, reason_of
from pipelines.cluster.server import ClusterError

__all__ = [
    "CLUSTER",
    "CONTEXT",
    "KFP_VERSION",
    "MANIFESTS",
    "NAMESPACE",
    "NODE_IMAGE",
    "apply_overlay",
    "check_machine",
    "create",
    "delete",
    "forwarded",
    "install_pipelines",
    "load_images",
    "store_keys",
    "wait_ready",
]

CLUSTER = "untaint"
CONTEXT = f"kind-{CLUSTER}"
"""kubectl's context for the cluster, as kind names it."""
NAMESPACE = DEFAULT_NAMESPACE
KFP_VERSION = "2.17.0"
MANIFESTS = {
    "cluster-scoped-resources": "bf04ab670974005d2c87262bf7c33eb720fca37b1fa0bce3e98a1913d8d1cf34",
    "platform-agnostic": "ea2aceec68712cee09a35b7797f06cfef1b6a56edbe41ee9017efa273fba6f6f",
}
"""Each rendered part of Kubeflow Pipelines, in the order of the installation, to its hex sha256."""
NODE_IMAGE = "kindest/node:v1.36.1@sha256:3489c7674813ba5d8b1a9977baea8a6e553784dab7b84759d1014dbd78f7ebd5"
"""Kubernetes of the cluster; kind asks for the digest beside the tag, for tags of node images are moved."""

_FOLDER = Path(__file__).parents[2] / "k8s"
_VENDOR = _FOLDER / "vendor" / "kubeflow-pipelines"
_MARK = "untaint.dev/kubeflow-pipelines"
_GIB = 2**30
# Kubeflow Pipelines asks for 3.1 GiB, the two trainings that run at a time for 3 GiB, Kubernetes for the rest.
_MEMORY_GIB, _CPUS = 8, 4
# No call of a program waits longer than this; the long ones pull an image or carry gigabytes to the node.
_SECONDS, _SECONDS_LONG = 120.0, 1800.0
_REOPEN_SECONDS = 1.0
_PROGRAMS = {
    "docker": "https://docs.docker.com/engine/install",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start (v0.32 or later)",
    "kubectl": "https://kubernetes.io/docs/tasks/tools",
}

Write = Callable[[str], None]


def check_machine(write: Write) -> None:
    """Looks for the three programs, for a Docker engine and for the memory that a cluster needs.

    Args:
        write: Takes one line for the user.

    Raises:
        ConfigError: A program is missing, or Docker's engine does not answer.
        ResourceError: The engine has too little memory.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            "Kubernetes on this machine",
            expected=f"{', '.join(_PROGRAMS)} on the PATH, and {_MEMORY_GIB} GiB of memory and {_CPUS} CPUs for Docker",
            found=f"no {' and no '.join(missing)}",
            hint=f"Install: {'; '.join(f'{name} from {_PROGRAMS[name]}' for name in missing)}.",
        )
    told = _run(["docker", "info", "--format", "{{.MemTotal}} {{.NCPU}}"], "Docker's engine", "Start Docker.")
    memory, cpus = (int(part) for part in told.split())
    if memory < 0.9 * _MEMORY_GIB * _GIB:
        raise ResourceError(
            "the memory of Docker's engine",
            expected=f"{_MEMORY_GIB} GiB: Kubeflow Pipelines takes 3.1, the stages up to 3, Kubernetes the rest",
            found=f"{memory / _GIB:.1f} GiB",
            hint="Give Docker more (Docker Desktop: Settings, Resources), or run without a cluster: make run.",
        )
    if cpus < _CPUS:
        write(f"Docker has {cpus} CPUs; with fewer than {_CPUS}, stages wait for each other and it takes longer.")


def create(write: Write, node_image: str = NODE_IMAGE) -> None:
    """Makes the cluster, or goes on with the one that is there.

    Args:
        write: Takes one line for the user.
        node_image: Node image with tag and digest.

    Raises:
        ClusterError: kind does not succeed.
    """
    if CLUSTER in _run(["kind", "get", "clusters"], "kind", "Look whether Docker runs.").split():
        write(f"cluster {CLUSTER}: already there")
        return
    write(f"cluster {CLUSTER}: creating, with {node_image.partition('@')[0]}")
    config = str(_FOLDER / "kind-cluster.yaml")
    _run(
        ["kind", "create", "cluster", "--name", CLUSTER, "--config", config, "--image", node_image, "--wait", "180s"],
        "the kind cluster",
        "`make run-local-down` clears what is left; the node image is pulled from Docker Hub once.",
        limit_seconds=_SECONDS_LONG,
    )


def install_pipelines(write: Write, *, limit_seconds: float = 900.0, poll_seconds: float = 5.0) -> None:
    """Installs Kubeflow Pipelines, and waits until it runs; a whole installation is left as it is.

    Args:
        write: Takes one line for the user.
        limit_seconds: Give up waiting after this long.
        poll_seconds: Time between two looks.

    Raises:
        ClusterError: A step does not succeed, or the time is up; what is stuck is said before.
    """
    mark = "jsonpath={.metadata.annotations.untaint\\.dev/kubeflow-pipelines}"
    done = _run(
        _kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", mark),
        "the cluster",
        "`make run-local-down` and `make run-local` make it anew.",
    )
    if done.strip() == KFP_VERSION:
        write(f"Kubeflow Pipelines {KFP_VERSION}: already installed")
    else:
        write(f"Kubeflow Pipelines {KFP_VERSION}: installing")
        for part in MANIFESTS:
            _run(_kubectl("apply", "-f", str(_manifest(part))), f"its manifests, {part}", "Try again.")
            if part == "cluster-scoped-resources":
                _run(
                    _kubectl("wait", "--for=condition=established", "--timeout=60s", "crd/applications.app.k8s.io"),
                    "its resource definitions",
                    "Try again.",
                )
    wait_ready(write, limit_seconds=limit_seconds, poll_seconds=poll_seconds)
    note = _kubectl("annotate", "namespace", NAMESPACE, f"{_MARK}={KFP_VERSION}", "--overwrite")
    _run(note, "the cluster", "Try again.")


def _manifest(part: str) -> Path:
    """The file of a part, if it is the one that was rendered."""
    path = _VENDOR / f"{part}.yaml"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != MANIFESTS[part]:
        raise ConfigError(
            str(path),
            expected=f"the manifests of Kubeflow Pipelines {KFP_VERSION}, sha256 {MANIFESTS[part]}",
            found=found,
            hint=f"Restore it with git; {_VENDOR.name}/README.md says how it was made.",
        )
    return path


def wait_ready(write: Write, *, limit_seconds: float, poll_seconds: float) -> None:
    """Waits until every deployment of Kubeflow Pipelines is available, with a line for each change.

    Args:
        write: Takes one line for the user.
        limit_seconds: Give up after this long.
        poll_seconds: Time between two looks.

    Raises:
        ClusterError: The time is up; a line for each pod that is stuck has been written.
    """
    deadline, told = time.monotonic() + limit_seconds, ""
    while True:
        deployments = _objects("deployments")
        ready = [entry for entry in deployments if _available(entry)]
        line = f"Kubeflow Pipelines: {len(ready)} of {len(deployments)} deployments are ready"
        if line != told:
            write(line)
            told = line
        if deployments and len(ready) == len(deployments):
            return
        if time.monotonic() > deadline:
            stuck = _stuck(_objects("pods"))
            for text in stuck:
                write(f"  {text}")
            raise ClusterError(
                "Kubeflow Pipelines",
                expected=f"all deployments ready within {limit_seconds:.0f} s",
                found=f"{len(ready)} of {len(deployments)}; {len(stuck)} pods are stuck, as said above",
                hint=f"Look with `kubectl --context {CONTEXT} -n {NAMESPACE} describe pods`; then try again, what "
                "is there is kept.",
            )
        time.sleep(poll_seconds)


def load_images(references: Sequence[str], write: Write) -> None:
    """Puts images of this machine onto the cluster's node.

    Args:
        references: Image references with their tags.
        write: Takes one line for the user.

    Raises:
        ClusterError: kind does not succeed.
    """
    write(f"loading {len(references)} images onto the node")
    load = ["kind", "load", "docker-image", *references, "--name", CLUSTER]
    hint = "Look whether Docker has disk left, on this machine and for the node; then try again."
    _run(load, "the images on the node", hint, limit_seconds=_SECONDS_LONG)


def store_keys() -> dict[str, str]:
    """The keys of Kubeflow Pipelines' own object store: ``accesskey`` and ``secretkey``.

    Raises:
        ClusterError: The cluster does not tell.
    """
    told = _run(
        _kubectl("-n", NAMESPACE, "get", "secret", "mlpipeline-minio-artifact", "-o", "json"),
        "the keys of the object store",
        "`make run-local-down` and `make run-local` make the cluster anew.",
    )
    data = json.loads(told)["data"]
    return {name: base64.b64decode(data[name]).decode() for name in ("accesskey", "secretkey")}


def apply_overlay(keys: dict[str, str], write: Write) -> None:
    """Applies what runs need: the store's keys as a secret of ours, then the overlay ``kind``.

    Args:
        keys: As from ``store_keys``.
        write: Takes one line for the user.

    Raises:
        ClusterError: kubectl does not succeed.
    """
    write("applying k8s/overlays/kind")
    labels = {f"app.kubernetes.io/{name}": "untaint" for name in ("name", "part-of", "managed-by")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "untaint-s3",
            "namespace": NAMESPACE,
            "labels": labels | {"app.kubernetes.io/component": "store"},
        },
        "type": "Opaque",
        "stringData": keys,
    }
    _run(
        _kubectl("apply", "--server-side", "--field-manager=untaint", "--force-conflicts", "-f", "-"),
        "the secret of the store",
        "Try again.",
        given=json.dumps(secret),
    )
    _run(_kubectl("apply", "-k", str(_FOLDER / "overlays" / "kind")), "k8s/overlays/kind", "Run `make check-k8s`.")


@contextlib.contextmanager
def forwarded(service: str, port: int, *, limit_seconds: float = 30.0) -> Iterator[int]:
    """A port of this machine, on loopback, that leads to a service of the cluster, inside the block.

    ``kubectl port-forward`` ends when the pod behind it does, or when a connection breaks; once the way was open, it is
    opened again, so that a run of hours is not lost sight of.

    Args:
        service: Name of the service.
        port: Its port.
        limit_seconds: Give up after this long.

    Raises:
        ClusterError: The way does not open.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = int(probe.getsockname()[1])
    command = _kubectl("-n", NAMESPACE, "port-forward", "--address=127.0.0.1", f"svc/{service}", f"{here}:{port}")
    forward, lock, over = _silent(command), threading.Lock(), threading.Event()

    def keep_open() -> None:
        nonlocal forward
        while True:
            forward.wait()
            if over.wait(_REOPEN_SECONDS):
                return
            with lock:
                if over.is_set():
                    return
                forward = _silent(command)

    try:
        deadline = time.monotonic() + limit_seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", here), timeout=1):
                break
            if forward.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(
                    f"the way to the service {service}",
                    expected=f"an open port within {limit_seconds:.0f} s",
                    found="kubectl port-forward ended" if forward.poll() is not None else "none",
                    hint=f"Try it by hand: {' '.join(command)}",
                )
            time.sleep(0.1)
        threading.Thread(target=keep_open, daemon=True).start()
        yield here
    finally:
        with lock:
            over.set()
        forward.terminate()
        try:
            forward.wait(timeout=5)
        except subprocess.TimeoutExpired:
            forward.kill()
            forward.wait()


def _silent(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def delete(registry: str, write: Write) -> None:
    """Deletes the cluster with all its data, and the images that were built for it.

    Args:
        registry: Registry part of those images' names.
        write: Takes one line for the user.

    Raises:
        ConfigError: kind or docker is missing.
        ClusterError: One of them does not succeed.
    """
    for name in ("docker", "kind"):
        if shutil.which(name) is None:
            raise ConfigError(
                f"the cluster {CLUSTER}",
                expected=f"{name} on the PATH",
                found="none",
                hint=f"Install it from {_PROGRAMS[name]}.",
            )
    if CLUSTER in _run(["kind", "get", "clusters"], "kind", "Look whether Docker runs.").split():
        _run(["kind", "delete", "cluster", "--name", CLUSTER], "the kind cluster", "Try again.")
        write(f"cluster {CLUSTER}: deleted")
    else:
        write(f"cluster {CLUSTER}: not there")
    pattern = f"reference={registry}/untaint-*"
    listed = ["docker", "images", "--filter", pattern, "--format", "{{.Repository}}:{{.Tag}}"]
    images = _run(listed, "the images", "Look whether Docker runs.").split()
    if images:
        _run(["docker", "image", "rm", *images], "the images", "Look whether a container still uses one.")
        write(f"{len(images)} images: deleted")


def _kubectl(*arguments: str) -> list[str]:
    # The context is named each time, so that no other cluster is ever touched.
    return ["kubectl", "--context", CONTEXT, *arguments]


def _objects(kind: str) -> list[dict[str, Any]]:
    told = _run(_kubectl("-n", NAMESPACE, "get", kind, "-o", "json"), f"the {kind}", "Try again.")
    items: list[dict[str, Any]] = json.loads(told)["items"]
    return items


def _available(deployment: dict[str, Any]) -> bool:
    conditions = deployment.get("status", {}).get("conditions", [])
    return any(entry["type"] == "Available" and entry["status"] == "True" for entry in conditions)


def _stuck(pods: list[dict[str, Any]]) -> list[str]:
    """Each pod that is not ready, with the reason that Kubernetes gives."""
    lines = []
    for pod in pods:
        status = pod.get("status", {})
        conditions = status.get("conditions", [])
        if status.get("phase") == "Succeeded" or any(
            entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions
        ):
            continue
        lines.append(f"{pod['metadata']['name']}: {reason_of(pod) or status.get('phase', 'unknown')}")
    return lines


def _run(
    command: Sequence[str], what: str, hint: str, given: str | None = None, limit_seconds: float | None = None
) -> str:
    """Standard output of a program; what it said last is told when it does not succeed, or not in time."""
    limit = _SECONDS if limit_seconds is None else limit_seconds
    try:
        done = subprocess.run(  # noqa: S603 - a list of our own arguments, no shell
            command, input=given, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired as problem:
        # Bytes even where text was asked for.
        parts = [part.decode(errors="replace") for part in (problem.stdout, problem.stderr) if part]
        found, said = f"it did not end within {limit:.0f} s", "".join(parts)
    else:
        if not done.returncode:
            return done.stdout
        found, said = f"exit code {done.returncode}", done.stdout + done.stderr
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    verb = next((word for word in command[1:] if not word.startswith("-") and word != CONTEXT), "")
    raise ClusterError(
        what,
        expected=f"`{command[0]} {verb}` to succeed",
        found=f"{found}: {' | '.join(lines[-5:])[-800:] or 'it said nothing'}",
        hint=hint,
    )
