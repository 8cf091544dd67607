"""From a loaded dataset to training rows, with an attack injected if asked: arrays in, arrays out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from components.common.datasets.base import LoadedDataset
from components.common.tables.tables import REJECTED
from components.ingest.config import IngestConfig

__all__ = ["Injected", "encode_png", "inject", "pixel_statistics", "rejected_table", "statistics_of"]

_MIN_STD = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Injected:
    """Images and labels of all rows after an attack.

    Attributes:
        images: uint8 [n, c, h, w].
        labels: int16 [n], as training will see them.
        is_poisoned: bool [n]; never true for the holdout.
        changed: bool [n], rows whose image is not the delivered one.
        record: What evaluate needs to make the trigger again.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int16]
    is_poisoned: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.bool_]
    record: dict[str, Any]


def inject(dataset: LoadedDataset, config: IngestConfig) -> Injected:
    """Poisons the training rows of a dataset.

    Args:
        dataset: The clean dataset; unchanged.
        config: Attack, rates, target and seed; the attack is not ``none``.

    Raises:
        ConfigError: The attack cannot be made as asked.
    """
    # torch costs 1.6 s to import, and only an injected attack needs it.
    import torch

    from components.common.attacks.base import AttackConfig, make_attack
    from components.common.learning.seeding import derive_seed

    attack_config = AttackConfig(
        name=config.attack,
        poison_rate=config.poison_rate,
        target_label=config.target_label,
        cover_rate=None if config.cover_rate < 0 else config.cover_rate,
        seed=derive_seed(config.seed, "attack") % 2**31,
        options=config.options(),
    )
    shape = dataset.images.shape[1:]
    attack = make_attack(
        attack_config, num_classes=len(dataset.class_names), image_shape=(shape[0], shape[1], shape[2])
    )
    train = slice(0, dataset.n_train)
    injection = attack.inject(
        torch.from_numpy(dataset.images[train]), torch.from_numpy(dataset.labels[train].astype(np.int64))
    )
    images, labels = dataset.images.copy(), dataset.labels.copy()
    images[train] = injection.images.numpy()
    labels[train] = injection.labels.numpy().astype(np.int16)
    holdout = np.zeros(dataset.n_holdout, dtype=bool)
    return Injected(
        images=images,
        labels=labels,
        is_poisoned=np.concatenate([injection.is_poisoned.numpy(), holdout]),
        changed=np.concatenate([injection.is_changed.numpy(), holdout]),
        record={
            "name": attack_config.name,
            "poison_rate": attack_config.poison_rate,
            "target_label": attack_config.target_label,
            "cover_rate": attack_config.cover_rate,
            "seed": attack_config.seed,
            "options": dict(attack_config.options),
        },
    )


def pixel_statistics(images: npt.NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation of images [n, c, h, w], scaled to [0, 1]; see ``statistics_of``."""
    counts = [np.bincount(images[:, channel].reshape(-1), minlength=256) for channel in range(images.shape[1])]
    return statistics_of(np.array(counts))


def statistics_of(counts: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation of pixels, scaled to [0, 1].

    The deviation is at least 0.001, so that a constant channel can be divided by it.

    Args:
        counts: [c, 256], how often each value occurs in each channel.
    """
    values = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in counts:
        mean = float((channel * values).sum() / channel.sum())
        variance = float((channel * (values - mean) ** 2).sum() / channel.sum())
        means.append(round(mean, 6))
        deviations.append(round(max(variance**0.5, _MIN_STD), 6))
    return means, deviations


def rejected_table(rejected: Sequence[tuple[str, str, str]]) -> pa.Table:
    """The table of what a drop was left out of, from keys, reasons and details."""
    columns = list(zip(*rejected, strict=True)) or [(), (), ()]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTED.schema)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """One image [c, h, w], grey or RGB, as PNG bytes."""
    buffer = io.BytesIO()
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
