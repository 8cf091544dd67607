"""From a claim's settings to its terms, and from a search to what the run graph shows."""

from __future__ import annotations

from datetime import date

from components.claim.config import ClaimConfig
from components.common.contracts.errors import ConfigError
from components.common.retraining.records import Search, Terms

__all__ = ["described", "terms_of"]


def terms_of(config: ClaimConfig, run_id: str, plan: str = "") -> Terms:
    """The terms on which a run claims.

    Raises:
        ConfigError: The first date lies behind the last.
    """
    since, until = _day(config.since), _day(config.until)
    if since and until and since > until:
        raise ConfigError(
            "the dates of the drops",
            expected="a first date that is not after the last",
            found=f"{since} to {until}",
            hint="Exchange them.",
        )
    return Terms(
        name=config.name,
        holder=run_id,
        lease_seconds=config.lease_seconds,
        attempts=config.attempts,
        since=since,
        until=until,
        plan=plan,
    )


def described(search: Search) -> str:
    """What a search came to, as one line."""
    counts = [f"{count} {reason}" for reason, count in sorted(search.passed.items())]
    if search.refused:
        counts.append(f"{len(search.refused)} refused")
    beside = f" (passed over: {', '.join(counts)})" if counts else ""
    if search.claim is None:
        return f"nothing new{beside}"
    return f"claimed {search.claim.drop_uri}, epoch {search.claim.epoch}{beside}"


def _day(text: str) -> date | None:
    return date.fromisoformat(text) if text else None
