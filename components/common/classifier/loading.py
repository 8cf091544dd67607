"""Reads a classifier from ``model.safetensors`` and ``config.json``, as hostile.

safetensors holds no code, sizes are bounded, and the weights must be those whose digest the configuration names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from components.common.classifier.model import Classifier
from components.common.classifier.provenance import Provenance
from components.common.contracts.errors import ConfigError, ContractError
from components.common.models import ModelSpec, build_model

__all__ = ["CONFIG_FILE", "SCHEMA", "WEIGHTS_FILE", "classifier_from", "load"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SCHEMA = "untaint.model/1"
"""Name and version of the form of ``config.json``."""

_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_WEIGHTS_BYTES = 8 * 2**30
_MAX_SIDE = 1024
_HINT = "Export the model again with `untaint export`."


def load(folder: Path | str) -> Classifier:
    """Loads a classifier from a folder that holds ``config.json`` and ``model.safetensors``.

    Raises:
        ConfigError: No such folder, or one of the files is missing.
        ContractError: A file is not what it has to be, or the weights are not those of the configuration.
    """
    place = Path(folder)
    data = {}
    for name, most in ((CONFIG_FILE, _MAX_CONFIG_BYTES), (WEIGHTS_FILE, _MAX_WEIGHTS_BYTES)):
        path = place / name
        if not path.is_file():
            raise ConfigError(
                f"model {place}",
                expected=f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}",
                found=f"no {name}",
                hint="`untaint export RUN_ID --to DIR` makes such a folder.",
            )
        if path.stat().st_size > most:
            raise ContractError(
                str(path), expected=f"at most {most} bytes", found=f"{path.stat().st_size} bytes", hint=_HINT
            )
        data[name] = path.read_bytes()
    return classifier_from(data[CONFIG_FILE], data[WEIGHTS_FILE], subject=str(place))


def classifier_from(config: bytes, weights: bytes, *, subject: str) -> Classifier:
    """Builds a classifier from the bytes of both files.

    Args:
        config: ``config.json``.
        weights: ``model.safetensors``.
        subject: Where they come from, for messages.

    Raises:
        ConfigError: An architecture that this version does not know.
        ContractError: The bytes are not such files, or do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    record = _record(config, f"{subject}, {CONFIG_FILE}")
    found = hashlib.sha256(weights).hexdigest()
    if found != record["weights"]["sha256"]:
        raise ContractError(
            f"{subject}, {WEIGHTS_FILE}",
            expected=f"sha256 {record['weights']['sha256']}, which {CONFIG_FILE} names",
            found=f"sha256 {found}",
            hint=_HINT,
        )
    spec = ModelSpec(
        num_classes=len(record["class_names"]),
        channels=record["channels"],
        image_size=record["image_size"],
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
    )
    with torch.random.fork_rng(devices=[]):
        # Its first weights are drawn from the global generator, which is the caller's.
        model = build_model(record["architecture"], spec)
    try:
        model.load_state_dict(read(weights))
    except (SafetensorError, RuntimeError, KeyError) as problem:
        raise ContractError(
            f"{subject}, {WEIGHTS_FILE}",
            expected=f"the weights of a {record['architecture']} for {spec.num_classes} classes",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint=_HINT,
        ) from None
    channels, height, width = record["image_shape"]
    known = {one.name for one in fields(Provenance)}
    return Classifier(
        module=model.eval(),
        architecture=record["architecture"],
        spec=spec,
        image_shape=(channels, height, width),
        class_names=tuple(record["class_names"]),
        provenance=Provenance(**{name: value for name, value in record.items() if name in known}),
    )


def _record(data: bytes, subject: str) -> dict[str, Any]:
    """The configuration, checked as far as the model depends on it."""
    try:
        record = json.loads(data)
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {str(record['schema'])[:40]}")
        channels, side, names = record["channels"], record["image_size"], record["class_names"]
        shape = record["image_shape"]
        sound = (
            type(channels) is int
            and channels in (1, 3)
            and type(side) is int
            and 1 <= side <= _MAX_SIDE
            and len(shape) == 3
            and shape[0] == channels
            and all(type(length) is int and 1 <= length <= _MAX_SIDE for length in shape)
            and isinstance(names, list)
            and 2 <= len(names) <= 32_767
            and all(isinstance(name, str) for name in names)
            and all(len(record[key]) == channels and all(map(_is_number, record[key])) for key in ("mean", "std"))
            and all(value > 0 for value in record["std"])
            and isinstance(record["architecture"], str)
            and isinstance(record["weights"]["sha256"], str)
        )
        if not sound:
            raise ValueError("a value that is out of range or of another type")
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ContractError(
            subject,
            expected=f"a configuration of the form {SCHEMA}",
            found=f"{type(problem).__name__}: {str(problem)[:120]}",
            hint=_HINT,
        ) from None
    return dict(record)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6
