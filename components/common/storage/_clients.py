"""The S3 client of a process, and a light reader for many small objects that boto3 alone would spend its time on."""

from __future__ import annotations

import os
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from components.common.contracts.errors import ConfigError
from components.common.storage._failures import explained
from components.common.storage.settings import S3Settings

if TYPE_CHECKING:
    from botocore.httpsession import URLLib3Session
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client

__all__ = ["Clients", "QuickReader"]

_MAX_CONNECTIONS = 16
_MAX_MISSES = 20


class Clients:
    """A client per process: a connection pool shared with a forked child would mix the answers of both.

    Args:
        settings: Client settings.
        root: Root of the store, for messages.
    """

    def __init__(self, settings: S3Settings, root: str) -> None:
        self._settings, self._root = settings, root
        self._lock = threading.Lock()
        self._made: tuple[int, S3Client, QuickReader] | None = None

    def client(self) -> S3Client:
        """The process's client.

        Raises:
            ConfigError: The endpoint is no URL.
            StorageError: boto3 cannot make a client, for want of a region for instance.
        """
        return self._own()[1]

    def quick(self) -> QuickReader:
        """The process's reader of small objects; raises as ``client``."""
        return self._own()[2]

    def _own(self) -> tuple[int, S3Client, QuickReader]:
        made = self._made
        if made is not None and made[0] == os.getpid():
            return made
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = (os.getpid(), *_new(self._settings, self._root))
            return self._made


def _new(chosen: S3Settings, root: str) -> tuple[S3Client, QuickReader]:
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    style: Literal["auto", "path", "virtual"] = "auto"
    if chosen.path_style is not None:
        style = "path" if chosen.path_style else "virtual"
    config = Config(
        connect_timeout=chosen.connect_timeout,
        read_timeout=chosen.read_timeout,
        retries={"mode": "standard", "total_max_attempts": chosen.max_attempts},
        request_checksum_calculation=chosen.checksums,
        response_checksum_validation=chosen.checksums,
        s3={"addressing_style": style},
        max_pool_connections=_MAX_CONNECTIONS,
        user_agent_extra="untaint",
    )
    try:
        # A session of its own: the default one keeps the first credentials it saw.
        session = botocore.session.Session()
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
        client = boto3.session.Session(botocore_session=session).client("s3", config=config)
        return client, QuickReader(session, client, chosen)
    except BotoCoreError as problem:
        raise explained(problem, "the configured endpoint", "connect for", root) from problem
    except ValueError as problem:
        # botocore's text quotes the URL, which may carry a password.
        raise ConfigError(
            "AWS_ENDPOINT_URL", expected="http(s)://host[:port]", found="something else", hint="Correct it."
        ) from problem


def _moment(value: Any) -> datetime:
    """A time as the store writes it: ISO 8601 in listings, half of whose time botocore's own reader takes."""
    from botocore.utils import parse_timestamp

    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        moment = parse_timestamp(value)
    return moment


class QuickReader:
    """Reads ranges with half the CPU time that boto3 takes, which for an image of 1 kB is all of the time.

    Only what goes well is done here; of anything else ``read`` says None, and boto3 does it with its retries and its
    messages. Addresses, credentials, signatures, proxies and certificates are botocore's own.

    Args:
        session: The session of the client.
        client: The client.
        settings: Its settings.
    """

    def __init__(self, session: Session, client: S3Client, settings: S3Settings) -> None:
        self._client = client
        # They renew themselves.
        self._credentials = session.get_credentials()
        self._bundle = session.get_config_variable("ca_bundle")
        # botocore takes such a pair; its stubs know of whole seconds only.
        self._timeouts: Any = (settings.connect_timeout, settings.read_timeout)
        self._bases: dict[str, tuple[str, URLLib3Session]] = {}
        self._misses = 0

    def read(self, bucket: str, key: str, start: int, length: int) -> bytes | None:
        """``length`` bytes of an object from offset ``start``; None if anything at all was unusual.

        Args:
            bucket: The bucket.
            key: The object's key.
            start: Offset in bytes.
            length: Bytes, at least 1.
        """
        if self._misses >= _MAX_MISSES:
            return None
        from botocore.exceptions import BotoCoreError, HTTPClientError
        from urllib3.exceptions import HTTPError

        try:
            data = self._get(bucket, key, start, length)
        except (BotoCoreError, HTTPClientError, HTTPError, OSError):
            data = None
        # A store that wants something else is not asked twice for every object.
        self._misses = 0 if data is not None else self._misses + 1
        return data

    def _get(self, bucket: str, key: str, start: int, length: int) -> bytes | None:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        if self._credentials is None:
            return None
        base, http = self._base(bucket)
        request = AWSRequest(
            "GET",
            base + quote(key, safe="/~"),
            headers={"Range": f"bytes={start}-{start + length - 1}", "User-Agent": "untaint"},
            stream_output=True,
        )
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._client.meta.region_name).add_auth(request)
        answer = http.send(request.prepare())
        if answer.status_code != 206:
            # Unread: it may be a whole object where a few bytes were asked for.
            answer.raw.close()
            return None
        # A byte more than asked shows a store that sends another range.
        data: bytes = answer.raw.read(length + 1)
        return data if len(data) == length else None

    def _base(self, bucket: str) -> tuple[str, URLLib3Session]:
        known = self._bases.get(bucket)
        if known is None:
            from botocore.httpsession import URLLib3Session
            from botocore.utils import get_environ_proxies

            # The client's word on hosts, regions and path style.
            signed = self._client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
            base = signed.partition("?")[0].removesuffix("x")
            http = URLLib3Session(
                verify=self._bundle or True,
                proxies=get_environ_proxies(base),
                timeout=self._timeouts,
                max_pool_connections=_MAX_CONNECTIONS,
            )
            known = self._bases.setdefault(bucket, (base, http))
        return known
