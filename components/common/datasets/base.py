"""What a dataset is to untaint, and how a built-in one is loaded by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.common.contracts.errors import ConfigError, DataError
from components.common.contracts.registry import Registry

__all__ = [
    "DATASETS",
    "MIN_CLASS_SAMPLES",
    "MIN_SIDE",
    "Int16s",
    "IntRows",
    "LoadRequest",
    "LoadedDataset",
    "Loader",
    "Pixels",
    "check_class_sizes",
    "check_classes",
    "load",
    "resize_all",
    "stratified_rows",
]

MIN_CLASS_SAMPLES = 10
"""Fewest training samples of a class; fewer say nothing about what is usual in it."""

MIN_SIDE = 8
"""Smallest side of an image in pixels that any model takes."""

_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
Int16s = npt.NDArray[np.int16]
IntRows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRequest:
    """What to load of a dataset; ranges are checked in ``components/ingest/config.py``, where the settings come from.

    Attributes:
        train_limit: Most training samples, stratified by class; 0 = all.
        holdout_limit: Most holdout samples, stratified by class; 0 = all.
        image_size: Side in pixels that every image is resized to; 0 = as delivered.
        seed: Chooses the samples that a limit keeps.
    """

    train_limit: int = 0
    holdout_limit: int = 0
    image_size: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedDataset:
    """A dataset in memory: training rows first, then holdout rows, each in the order of the source.

    Attributes:
        name: The name that was asked for.
        class_names: Name of class k at position k.
        images: uint8 [n, channels, height, width], 1 channel (grey) or 3 (RGB).
        labels: int16 [n], 0 to the number of classes - 1.
        n_train: How many of the first rows are training samples.
        uris: Where sample i's encoded image lies ("<file URI>#row=17", "mnist5k:123").
        digests: Hex sha256 of the encoded image, or of the pixels (channels, rows, columns) as delivered where the
            source holds bare pixels.
        encoded: The encoded images (JPEG, PNG) if they were asked for and the source has them, else None.
        mirror: Whether a horizontal flip keeps the class (not so for digits).
    """

    name: str
    class_names: tuple[str, ...]
    images: Pixels
    labels: Int16s
    n_train: int
    uris: list[str]
    digests: list[str]
    encoded: list[bytes] | None
    mirror: bool

    def __post_init__(self) -> None:
        rows = len(self.images)
        sizes = {len(self.labels), len(self.uris), len(self.digests)}
        if sizes != {rows} or (self.encoded is not None and len(self.encoded) != rows):
            raise ValueError(f"columns of different length: {rows} images, others {sorted(sizes)}")
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise ValueError(f"images must be uint8 [n, 1 or 3, h, w], got {self.images.dtype} {self.images.shape}")
        if not 0 < self.n_train < rows:
            raise ValueError(f"n_train must be in (0, {rows}), got {self.n_train}")

    @property
    def n_holdout(self) -> int:
        """Number of holdout samples."""
        return len(self.images) - self.n_train

    @property
    def subsets(self) -> npt.NDArray[Any]:
        """Subset of each row, ``train`` or ``holdout``."""
        return np.repeat(np.array(["train", "holdout"]), [self.n_train, self.n_holdout])


Loader = Callable[[str, LoadRequest], LoadedDataset]
"""Loads a dataset from the argument behind the colon of its name ("" without one) and a request."""

DATASETS: Registry[Loader] = Registry("dataset", "components.common.datasets")


def load(name: str, *, train_limit: int, holdout_limit: int, image_size: int, seed: int) -> LoadedDataset:
    """Loads a dataset that has a file in this package, by name; ``intake.load`` knows people's own data too.

    Args:
        name: ``mnist5k`` or ``cifar10``; a part after a colon is the loader's argument.
        train_limit: Most training samples, stratified by class and chosen by the seed; 0 = all.
        holdout_limit: The same for the holdout.
        image_size: Side in pixels that every image is resized to (antialiased bilinear, to a square); 0 = as they
            are.
        seed: Chooses the samples that a limit keeps; the samples stay in the order of the source.

    Returns:
        The dataset, uint8 images [n, c, h, w] and int16 labels [n].

    Raises:
        ConfigError: An unknown dataset, or a limit below the number of classes.
        DataError: The files are missing, broken or not of the form that the loader describes.
    """
    kind, _, argument = name.partition(":")
    request = LoadRequest(train_limit=train_limit, holdout_limit=holdout_limit, image_size=image_size, seed=seed)
    dataset = DATASETS[kind](argument, request)
    check_classes(dataset.labels[: dataset.n_train], dataset.class_names, name)
    _log.info(
        "dataset %s: %d training and %d holdout images of %s, %d classes",
        name,
        dataset.n_train,
        dataset.n_holdout,
        "x".join(map(str, dataset.images.shape[1:])),
        len(dataset.class_names),
    )
    return dataset


def check_classes(train_labels: npt.NDArray[Any], class_names: Sequence[str], subject: str) -> None:
    """Checks that there are at least two classes and that each has a training sample.

    Args:
        train_labels: Labels of the training samples, 0 to len(class_names) - 1.
        class_names: Names of the classes.
        subject: The dataset or file, for the message.

    Raises:
        DataError: Fewer than two classes, or a class without a training sample.
    """
    if len(class_names) < 2:
        raise DataError(
            f"{subject}, labels",
            expected="at least 2 classes",
            found=f"{len(class_names)}",
            hint="A classifier needs two classes; check the column or the folders that name them.",
        )
    empty = np.flatnonzero(np.bincount(train_labels.astype(np.int64), minlength=len(class_names)) == 0)
    if len(empty):
        names = _some([f"{k} ({class_names[k]})" for k in empty.tolist()])
        raise DataError(
            f"{subject}, training labels",
            expected=f"a sample of each of the {len(class_names)} classes",
            found=f"none of class {names}",
            hint="Add samples, or renumber the labels 0, 1, … without gaps.",
        )


def check_class_sizes(train_labels: npt.NDArray[Any], class_names: Sequence[str], subject: str, hint: str) -> None:
    """Checks that each class has enough training samples to learn from.

    Args:
        train_labels: Labels of the training samples, 0 to len(class_names) - 1.
        class_names: Names of the classes, as the message shows them.
        subject: The dataset or drop, for the message.
        hint: What to do about a small class.

    Raises:
        DataError: A class with fewer than ``MIN_CLASS_SAMPLES`` samples.
    """
    counts = np.bincount(train_labels.astype(np.int64), minlength=len(class_names))
    small = np.flatnonzero(counts < MIN_CLASS_SAMPLES)
    if len(small):
        names = _some([f"{class_names[k]} ({counts[k]})" for k in small.tolist()])
        raise DataError(
            f"{subject}, training samples",
            expected=f"at least {MIN_CLASS_SAMPLES} of each class",
            found=f"fewer of {names}",
            hint=hint,
        )


def _some(names: list[str]) -> str:
    """The first few, as a message shows them."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def stratified_rows(labels: npt.NDArray[Any], limit: int, seed: int, subject: str) -> IntRows:
    """Chooses rows so that each class keeps its share, at least one row of each class that occurs.

    Args:
        labels: [n], non-negative integers.
        limit: Rows to keep; 0, n or more keeps all.
        seed: Chooses the rows within a class.
        subject: Name of the limit, for the message ("train_limit").

    Returns:
        int64 [min(limit, n)], strictly increasing.

    Raises:
        ConfigError: The limit is lower than the number of classes.
    """
    total = len(labels)
    if limit == 0 or limit >= total:
        return np.arange(total, dtype=np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    if limit < len(classes):
        raise ConfigError(
            subject,
            expected=f"0, or at least {len(classes)} (one sample of each class)",
            found=str(limit),
            hint="Raise the limit.",
        )
    quotas = np.maximum(1, counts * limit // total)
    # Largest remainders get what rounding down left over; where the minimum of one took too much, the largest
    # quotas give it back.
    remainders = counts * limit / total - quotas
    while quotas.sum() < limit:
        chosen = int(np.argmax(np.where(quotas < counts, remainders, -np.inf)))
        quotas[chosen] += 1
        remainders[chosen] -= 1
    while quotas.sum() > limit:
        quotas[int(np.argmax(quotas))] -= 1
    rng = np.random.default_rng(seed)
    rows = [
        rng.choice(np.flatnonzero(labels == label), size=int(quota), replace=False)
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(rows)).astype(np.int64)


def resize_all(images: Pixels, side: int) -> Pixels:
    """Resizes images to a square, antialiased bilinear.

    Args:
        images: uint8 [n, 1 or 3, h, w].
        side: Target side in pixels; 0 returns the images as they are.

    Returns:
        uint8 [n, c, side, side].
    """
    if side == 0 or images.shape[2:] == (side, side):
        return images
    out = np.empty((*images.shape[:2], side, side), dtype=np.uint8)
    for row, image in enumerate(images):
        for channel, plane in enumerate(image):
            out[row, channel] = Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR)
    return out
