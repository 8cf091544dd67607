"""Where a classifier comes from: what it was trained on, what was found and measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.runs.artifacts import digest_of

__all__ = ["Provenance", "dataset_digest", "dataset_name"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a classifier comes from and what was measured of it; what is not known is empty or None.

    Attributes:
        run_id: The run that trained it.
        dataset: Name of the dataset, without a path or an address.
        dataset_digest: ``dataset_digest`` of what it was trained and measured on.
        train_samples: Training images.
        holdout_samples: Images that accuracy was measured on.
        seed: Seed of the run.
        verdict: What the run found in the data.
        reason: Why, in a sentence.
        suspects: Training images that lost their label.
        checked: What was looked for, and how little of it would have been seen.
        acc: Accuracy, in [0, 1].
        acc_measured_on: On which rows, in words.
        attack: The attack that the run injected itself, to measure what it prevents; empty without one.
        asr: Attack success rate of that attack's worst trigger, in [0, 1].
        canary: How the planted trigger fared: ``planted``, ``caught`` and ``fired``, the last two in [0, 1].
        versions: Name of a package to its version.
    """

    run_id: str = ""
    dataset: str = ""
    dataset_digest: str = ""
    train_samples: int | None = None
    holdout_samples: int | None = None
    seed: int | None = None
    verdict: str = ""
    reason: str = ""
    suspects: int | None = None
    checked: str = ""
    acc: float | None = None
    acc_measured_on: str = ""
    attack: str = ""
    asr: float | None = None
    canary: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def dataset_digest(
    pixels_sha256: str, labels: npt.NDArray[np.integer[Any]], n_train: int, class_names: Sequence[str]
) -> str:
    """Hex sha256 over images, labels, their division and the classes' names: of content alone, not of addresses.

    Args:
        pixels_sha256: Hex sha256 of all images, uint8 [n, c, h, w], as a ``.npy`` file; training rows first.
        labels: [n], the labels as they were given.
        n_train: How many of the first rows are training samples.
        class_names: Name of class k at position k.
    """
    given = hashlib.sha256(np.ascontiguousarray(labels, dtype="<i2").tobytes()).hexdigest()
    return digest_of({"pixels": pixels_sha256, "labels": given, "n_train": n_train, "class_names": list(class_names)})


def dataset_name(dataset: str) -> str:
    """A dataset's name as it may be published: of a folder or a prefix its last part alone, without the way to it."""
    kind, colon, place = dataset.partition(":")
    return f"{kind} {place.rstrip('/').rpartition('/')[2]}" if colon else kind
