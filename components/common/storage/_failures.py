"""What botocore raises, as a StorageError that says where, doing what, and what to do next."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.common.contracts.errors import ConflictError, StorageError, UntaintError
from components.common.contracts.os_errors import full_disk, room

__all__ = ["DISK", "DISK_RESERVE", "code_of", "explained", "translated"]

DISK = "UNTAINT_STORE_DISK"
"""Environment variable: the embedded store's folder, if that is the store, so that a full disk is seen as such."""
DISK_RESERVE = 64 * 1024 * 1024
"""Bytes that stay free: below, the embedded store takes nothing more, and nothing more is downloaded."""

_HINTS = {
    "NoSuchBucket": "Create the bucket, or correct the bucket's name in the root URI.",
    "NoSuchKey": "Check the URI; the object was never published, or it was deleted.",
    "InvalidAccessKeyId": "The store does not know this access key: check AWS_ACCESS_KEY_ID and the endpoint.",
    "SignatureDoesNotMatch": "The secret does not fit the access key: check AWS_SECRET_ACCESS_KEY.",
    "ExpiredToken": "The session's credentials ran out: fetch new ones.",
    "InvalidObjectState": "The object is archived: restore it (Glacier: `aws s3api restore-object`), then try again.",
    "InvalidRange": "The range lies outside of the object.",
}


def code_of(problem: Any) -> tuple[int, str]:
    """HTTP status and S3 error code of a ClientError; (0, "") where the answer carries none."""
    response = problem.response
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), str(response.get("Error", {}).get("Code", ""))


def explained(problem: Exception, endpoint: str, operation: str, uri: str) -> UntaintError:
    """The StorageError for an exception of boto3 or botocore; a ResourceError if the embedded store's disk is full.

    The message of the original is kept out on purpose where it could quote credentials: only its class, the HTTP status
    and the S3 code are repeated.
    """
    from botocore.exceptions import ClientError

    subject = f"{operation} {uri} at {endpoint}"
    status, code = code_of(problem) if isinstance(problem, ClientError) else (0, "")
    disk = os.environ.get(DISK)
    if disk and (status >= 500 or not status) and room(Path(disk)) < DISK_RESERVE:
        return full_disk(Path(disk), f"room for the embedded store to {operation} {uri}")
    if not isinstance(problem, ClientError):
        found, hint = _unanswered(problem)
        return StorageError(subject, expected="an answer from the store", found=found, hint=hint)
    found = f"HTTP {status} {code}".strip()
    if status in (409, 412):
        hint = "Another writer was first; read the object again before deciding."
        return ConflictError(subject, expected="the object unchanged by others", found=found, hint=hint)
    hint = _HINTS.get(code, "")
    if not hint and status == 403:
        hint = (
            "The credentials are refused or lack the right to do this; without the right to list, "
            "some stores answer so for a missing object too."
        )
    elif not hint and status == 404:
        hint = "Check the bucket and the key."
    elif not hint and status >= 500:
        hint = "The store has a problem of its own; look at its log and try again."
    return StorageError(subject, expected="success", found=found, hint=hint or "See the store's log.")


def _unanswered(problem: Exception) -> tuple[str, str]:
    """What was found, cause first, and the hint, where no HTTP answer came."""
    from botocore import exceptions as b

    name = type(problem).__name__
    if isinstance(problem, (b.NoCredentialsError, b.PartialCredentialsError)):
        return "no usable credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role."
    if isinstance(problem, b.ProfileNotFound):
        return "an unknown AWS profile", "Correct or unset AWS_PROFILE."
    causes = list(_causes(problem))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return (
            "a host name that does not resolve (DNS)",
            "Check the host in AWS_ENDPOINT_URL, and this machine's DNS and network.",
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return (
            "a refused connection: nothing listens there",
            "Start the store, or correct host and port in AWS_ENDPOINT_URL.",
        )
    if isinstance(problem, b.SSLError) or any(isinstance(cause, ssl.SSLError) for cause in causes):
        reason = next((str(cause.reason) for cause in causes if isinstance(cause, ssl.SSLError) and cause.reason), name)
        return (
            f"a TLS problem ({reason.lower().replace('_', ' ')})",
            "Check http or https in AWS_ENDPOINT_URL; name the store's certificate authority in AWS_CA_BUNDLE.",
        )
    if isinstance(problem, (b.ConnectTimeoutError, b.ReadTimeoutError)) or any(
        isinstance(cause, TimeoutError) for cause in causes
    ):
        if isinstance(problem, b.ReadTimeoutError):
            hint = "Is it an S3 store? Check the endpoint; raise UNTAINT_S3_READ_TIMEOUT if the store is only slow."
            return "a time-out: connected, and no answer", hint
        hint = "Check the endpoint, firewalls and the network policy; UNTAINT_S3_CONNECT_TIMEOUT sets the seconds."
        return "a time-out: no connection", hint
    if isinstance(problem, (b.ConnectionClosedError, b.HTTPClientError)):
        hint = "Is it an S3 store that listens there? Check AWS_ENDPOINT_URL, and the store's log."
        return f"a connection that broke off ({name})", hint
    return name, "Check the AWS_* variables and the endpoint."


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """An exception and what led to it, which botocore and urllib3 keep in chains, in fields and in arguments."""
    waiting, seen = [problem], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *getattr(one, "kwargs", {}).values()]
        waiting += [other for other in (*inner, *one.args) if isinstance(other, BaseException)]


@contextmanager
def translated(endpoint: str, operation: str, uri: str) -> Iterator[None]:
    """Turns whatever boto3 raises inside into a StorageError or ConflictError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (ClientError, BotoCoreError) as problem:
        raise explained(problem, endpoint, operation, uri) from problem
    except Boto3Error as problem:
        # Transfers wrap what really happened, in the chain or, for uploads, only in the context.
        cause = problem.__cause__ or problem.__context__ or problem
        raise explained(cause if isinstance(cause, Exception) else problem, endpoint, operation, uri) from problem
