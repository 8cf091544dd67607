"""What botocore raises, told as a StorageError that says where, doing what, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.common.contracts.errors import ConflictError, StorageError

__all__ = ["code_of", "told", "translated"]

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


def told(problem: Exception, endpoint: str, operation: str, uri: str) -> StorageError:
    """The StorageError for an exception of boto3 or botocore.

    The message of the original is kept out on purpose where it could quote credentials: only its class, the HTTP status
    and the S3 code are repeated.
    """
    from botocore.exceptions import ClientError

    subject = f"{operation} {uri} at {endpoint}"
    if isinstance(problem, ClientError):
        status, code = code_of(problem)
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
    found, hint = _unanswered(problem)
    return StorageError(subject, expected="an answer from the store", found=found, hint=hint)


def _unanswered(problem: Exception) -> tuple[str, str]:
    """What was found, and the hint, where no HTTP answer came."""
    from botocore import exceptions as b

    name = type(problem).__name__
    if isinstance(problem, (b.NoCredentialsError, b.PartialCredentialsError)):
        return "no usable credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role."
    if isinstance(problem, b.ProfileNotFound):
        return "an unknown AWS profile", "Correct or unset AWS_PROFILE."
    if isinstance(problem, (b.ConnectTimeoutError, b.ReadTimeoutError)):
        return f"a time-out ({name})", "Check the endpoint; raise UNTAINT_S3_READ_TIMEOUT if the store is only slow."
    if isinstance(problem, b.SSLError):
        return f"a TLS problem ({name})", "Check http or https in AWS_ENDPOINT_URL, and AWS_CA_BUNDLE."
    if isinstance(problem, (b.EndpointConnectionError, b.HTTPClientError)):
        return f"no connection ({name})", "Is the store running? Check AWS_ENDPOINT_URL, DNS and the network policy."
    return name, "Check the AWS_* variables and the endpoint."


@contextmanager
def translated(endpoint: str, operation: str, uri: str) -> Iterator[None]:
    """Turns whatever boto3 raises inside into a StorageError or ConflictError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (ClientError, BotoCoreError) as problem:
        raise told(problem, endpoint, operation, uri) from problem
    except Boto3Error as problem:
        # Transfers wrap what really happened, in the chain or, for uploads, only in the context.
        cause = problem.__cause__ or problem.__context__ or problem
        raise told(cause if isinstance(cause, Exception) else problem, endpoint, operation, uri) from problem
