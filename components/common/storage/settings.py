"""How untaint talks S3: the few settings that boto3's own variables do not carry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from components.common.contracts.errors import ConfigError

__all__ = ["Checksums", "S3Settings"]

Checksums = Literal["when_supported", "when_required"]

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Settings:
    """Settings of the S3 client.

    Endpoint, region and credentials are boto3's own business (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, profiles,
    instance roles …): they are never kept here, so no secret can reach a log through these settings.

    Attributes:
        checksums: ``when_supported`` sends and checks CRCs wherever S3 can; ``when_required`` is for stores that
            reject the newer checksum headers. From ``UNTAINT_S3_CHECKSUMS``.
        connect_timeout: Seconds to wait for a connection, > 0. From ``UNTAINT_S3_CONNECT_TIMEOUT``.
        read_timeout: Seconds to wait for the next bytes, > 0. From ``UNTAINT_S3_READ_TIMEOUT``.
        max_attempts: Attempts per request in boto3's standard retry mode, 1 to 20. From ``UNTAINT_S3_MAX_ATTEMPTS``.
        path_style: Put the bucket into the path and not into the host name. None means: if an endpoint is set in the
            environment, for such endpoints seldom have a DNS name per bucket. From ``UNTAINT_S3_PATH_STYLE``.
    """

    checksums: Checksums = "when_supported"
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    max_attempts: int = 5
    path_style: bool | None = None

    def __post_init__(self) -> None:
        if self.checksums not in ("when_supported", "when_required"):
            raise _bad("UNTAINT_S3_CHECKSUMS", "when_supported or when_required", self.checksums)
        for name, value in (("CONNECT", self.connect_timeout), ("READ", self.read_timeout)):
            if not 0 < value <= 3600:
                raise _bad(f"UNTAINT_S3_{name}_TIMEOUT", "seconds in (0, 3600]", value)
        if not 1 <= self.max_attempts <= 20:
            raise _bad("UNTAINT_S3_MAX_ATTEMPTS", "a whole number from 1 to 20", self.max_attempts)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> S3Settings:
        """Reads the ``UNTAINT_S3_*`` variables; an empty variable counts as not set.

        Args:
            environment: The variables; the process's own by default.

        Raises:
            ConfigError: A value is not usable; the message names the variable.
        """
        env = os.environ if environment is None else environment
        default = cls()
        checksums = env.get("UNTAINT_S3_CHECKSUMS") or default.checksums
        if checksums not in ("when_supported", "when_required"):
            raise _bad("UNTAINT_S3_CHECKSUMS", "when_supported or when_required", checksums)
        attempts = _number(env, "UNTAINT_S3_MAX_ATTEMPTS", default.max_attempts)
        if attempts != int(attempts):
            raise _bad("UNTAINT_S3_MAX_ATTEMPTS", "a whole number from 1 to 20", attempts)
        path_style = _flag(env, "UNTAINT_S3_PATH_STYLE")
        if path_style is None and (env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")):
            path_style = True
        return cls(
            checksums="when_required" if checksums == "when_required" else "when_supported",
            connect_timeout=_number(env, "UNTAINT_S3_CONNECT_TIMEOUT", default.connect_timeout),
            read_timeout=_number(env, "UNTAINT_S3_READ_TIMEOUT", default.read_timeout),
            max_attempts=int(attempts),
            path_style=path_style,
        )


def _bad(variable: str, expected: str, found: object) -> ConfigError:
    return ConfigError(variable, expected=expected, found=f"'{str(found)[:40]}'", hint="Correct or unset the variable.")


def _number(env: Mapping[str, str], variable: str, default: float) -> float:
    text = env.get(variable)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise _bad(variable, "a number", text) from None
    # int() of these would raise past the range check.
    if value != value or value in (float("inf"), float("-inf")):
        raise _bad(variable, "a finite number", text)
    return value


def _flag(env: Mapping[str, str], variable: str) -> bool | None:
    text = env.get(variable)
    if not text:
        return None
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise _bad(variable, "true or false", text)
