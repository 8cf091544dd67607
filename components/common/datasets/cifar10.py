"""CIFAR-10 in its original form, read and checked by torchvision."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import DATASETS, LoadedDataset, LoadRequest, resize_all, stratified_rows

__all__ = ["load_cifar10"]

_ALLOW = "UNTAINT_ALLOW_DOWNLOAD"
_ROOT = "UNTAINT_DATA_DIR"


@DATASETS.register("cifar10")
def load_cifar10(argument: str, request: LoadRequest) -> LoadedDataset:
    """Loads the 50,000 training and 10,000 holdout images of 32x32 RGB pixels.

    The folder ``cifar-10-batches-py`` is looked for in ``UNTAINT_DATA_DIR`` (``~/.cache/untaint`` by default). It is
    downloaded only where ``UNTAINT_ALLOW_DOWNLOAD=1``: a stage in a cluster must not reach out unasked. torchvision
    checks the files' digests before it unpickles them. Imports torch and torchvision when called.

    Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.

    Raises:
        ConfigError: An argument was given; this dataset has none.
        DataError: The files are absent, not whole, or could not be downloaded.
    """
    if argument:
        raise ConfigError(
            f"dataset 'cifar10:{argument}'",
            expected="'cifar10' without an argument",
            found=f"the argument '{argument}'",
            hint=f"Set {_ROOT} to choose the folder, or use parquet:<folder>.",
        )
    root = Path(os.environ.get(_ROOT) or Path.home() / ".cache" / "untaint").expanduser()
    train, test = _open(root, train=True), _open(root, train=False)
    labels_train = np.asarray(train.targets, dtype=np.int16)
    labels_test = np.asarray(test.targets, dtype=np.int16)
    keep_train = stratified_rows(labels_train, request.train_limit, request.seed, "train_limit")
    keep_test = stratified_rows(labels_test, request.holdout_limit, request.seed, "holdout_limit")
    pixels = np.concatenate([train.data[keep_train], test.data[keep_test]])
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return LoadedDataset(
        name="cifar10",
        class_names=tuple(train.classes),
        images=resize_all(images, request.image_size),
        labels=np.concatenate([labels_train[keep_train], labels_test[keep_test]]),
        n_train=len(keep_train),
        uris=[f"cifar10:train/{row}" for row in keep_train] + [f"cifar10:test/{row}" for row in keep_test],
        digests=[hashlib.sha256(image.tobytes()).hexdigest() for image in images],
        encoded=None,
        mirror=True,
    )


def _open(root: Path, *, train: bool) -> Any:
    # Here, not above: torchvision takes seconds to import and the other datasets do without it.
    from torchvision.datasets import CIFAR10

    download = os.environ.get(_ALLOW) == "1"
    try:
        with warnings.catch_warnings():
            # The original pickles of 2009 hold an array flag that NumPy 2.4 deprecates; nobody can change them.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            return CIFAR10(str(root), train=train, download=download)
    except (RuntimeError, OSError) as problem:
        raise DataError(
            "dataset cifar10",
            expected=f"the folder cifar-10-batches-py in {root}",
            found=f"{type(problem).__name__}: {problem}",
            hint=f"Put it there, set {_ROOT} to the folder that holds it, set {_ALLOW}=1 to download it, "
            "or use parquet:<folder or prefix> with train*.parquet and test*.parquet.",
        ) from problem
