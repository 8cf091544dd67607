"""Names of objects: ``s3://bucket/key``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from components.common.contracts.errors import ConfigError

__all__ = ["ObjectInfo", "join", "parse_uri"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """What a store tells about an object without its bytes.

    Attributes:
        uri: Where it lies, ``s3://bucket/key``.
        size_bytes: Length of the object.
        etag: The store's version mark, with its quotes, as ``put_if_match`` takes it.
        last_modified: When it was written, with a time zone.
    """

    uri: str
    size_bytes: int
    etag: str
    last_modified: datetime


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://bucket/key`` URI; the key may be empty.

    Raises:
        ConfigError: Not such a URI.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or key.startswith("/") or "\x00" in key:
        raise ConfigError(
            f"URI '{uri[:200]}'",
            expected="s3://BUCKET/KEY",
            found=f"scheme '{scheme[:20]}'"
            if scheme != "s3"
            else "a key that starts with a slash or holds a zero byte",
            hint="Write the full s3:// URI.",
        )
    if not _BUCKET.fullmatch(bucket):
        size = len(bucket)
        fits = "characters that no bucket name has" if 3 <= size <= 63 else f"{size} character{'s' * (size != 1)}"
        raise ConfigError(
            f"URI '{uri[:200]}'",
            expected="a bucket name of 3 to 63 of a-z, 0-9, '.' and '-', with a letter or digit at both ends",
            found=f"bucket '{bucket[:70]}', {fits}",
            hint="Correct the bucket's name: s3://BUCKET/KEY.",
        )
    return bucket, key


def join(root: str, *parts: str) -> str:
    """Appends key segments to a URI.

    Raises:
        ConfigError: A part is empty, starts or ends with a slash, or climbs with ``..``.
    """
    for part in parts:
        if not part or part.startswith("/") or part.endswith("/") or ".." in part.split("/"):
            raise ConfigError(
                f"key part '{part[:200]}' under {root}",
                expected="a relative key without '..' and without slashes at its ends",
                found=f"'{part[:200]}'",
                hint="Choose a plain name.",
            )
    return "/".join((root.rstrip("/"), *parts))
