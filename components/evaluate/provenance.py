"""Where a run's result comes from: digests, settings, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from components.common.runs.artifacts import StageManifest, digest_of

__all__ = ["command", "config_digest", "settings"]

_DROP = "drop:"
# Settings that are options of `untaint run`, by the option's name.
_OPTIONS = {
    ("ingest", "dataset"): "dataset",
    ("ingest", "train_limit"): "train-limit",
    ("ingest", "attack"): "attack",
    ("ingest", "poison_rate"): "poison-rate",
    ("ingest", "target_label"): "target-label",
    ("warmup", "model"): "model",
    ("ingest", "seed"): "seed",
}


def settings(parents: Mapping[str, StageManifest]) -> dict[str, dict[str, Any]]:
    """Stage name to all its settings; those of an injected attack come from the truth's manifest.

    Args:
        parents: Stage name to manifest, ``truth`` among them where there is one.
    """
    found = {name: dict(manifest.config) for name, manifest in parents.items() if name != "truth"}
    if "truth" in parents:
        found["ingest"] |= parents["truth"].config
    return found


def config_digest(parents: Mapping[str, StageManifest], own: Mapping[str, Any]) -> str:
    """Hex sha256 of the settings of all stages.

    Args:
        parents: As for ``settings``.
        own: The evaluate stage's settings.
    """
    return digest_of({**settings(parents), "evaluate": dict(own)})


def command(parents: Mapping[str, StageManifest], own: Mapping[str, Any]) -> str:
    """The command that runs all this again, with every setting that is not the default.

    Args:
        parents: As for ``settings``.
        own: The evaluate stage's settings that differ from their default.
    """
    changed = {name: dict(manifest.facts.get("changed", {})) for name, manifest in parents.items() if name != "truth"}
    ingest = parents["ingest"]
    if "truth" in parents:
        changed["ingest"] |= parents["truth"].facts.get("changed", {})
    changed["evaluate"] = dict(own)
    dataset = str(ingest.config["dataset"])
    drop = dataset.startswith(_DROP)
    control = "control" in parents
    if drop:
        words = ["untaint", "ingest", "--drop", dataset.removeprefix(_DROP), *(["--control"] if control else [])]
        changed["ingest"].pop("dataset", None)
        changed["ingest"].pop("attack", None)
        # Without one is no default of that command, whatever it is.
        canary = settings(parents)["ingest"].get("canary_ratio", 0.0)
        changed["ingest"].pop("canary_ratio", None)
        words += ["--canary", str(canary)]
    else:
        words = ["untaint", "run", *([] if control else ["--no-control"])]
        if "truth" not in parents:
            changed["ingest"]["attack"] = "none"
    seen: set[str] = set()
    for stage, values in changed.items():
        for name, value in values.items():
            option = _OPTIONS.get((stage, name))
            if drop and option in ("attack", "poison-rate", "target-label"):
                continue
            if name in ("seed", "model") and option is None:
                continue
            if option is not None:
                if option not in seen:
                    words += [f"--{option}", str(value)]
                seen.add(option)
            else:
                words += ["--set", f"{stage}.{name}={_written(value)}"]
    return " ".join(shlex.quote(word) for word in words)


def _written(value: Any) -> str:
    """A value as the option ``--set`` takes it: YAML, in quotes where plain text would mean something else."""
    if isinstance(value, str):
        return value if value and yaml.safe_load(value) == value else yaml.safe_dump(value, default_style='"').strip()
    return str(value).lower() if isinstance(value, bool) else str(value)
