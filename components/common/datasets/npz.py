"""Images and labels that are arrays already: ``npz:<file>``, as ``numpy.savez`` writes them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from components.common.contracts.errors import DataError
from components.common.datasets.base import (
    DATASETS,
    LoadedDataset,
    LoadRequest,
    resize_all,
    stratified_rows,
)

__all__ = ["load_npz"]


@DATASETS.register("npz")
def load_npz(argument: str, request: LoadRequest) -> LoadedDataset:
    """Loads ``npz:<file>``: arrays in a NumPy archive.

    The file holds ``images``, uint8 [n, c, h, w] with one channel or three, ``labels``, integers [n] from 0 on,
    ``class_names``, text [k], and ``n_train``: training rows stand first, and the rest is the holdout.

    Args:
        argument: Path of the file.
        request: What to load.

    Raises:
        DataError: No such file, or not such arrays.
    """
    subject = f"dataset npz:{argument}"
    try:
        path = Path(argument).expanduser()
        with zipfile.ZipFile(path) as members:
            # Stored members are as long as their file says; compressed ones could unfold to any size.
            if any(one.compress_type != zipfile.ZIP_STORED for one in members.infolist()):
                raise ValueError("compressed arrays")
        with np.load(path, allow_pickle=False) as archive:
            images, labels, names = (np.asarray(archive[name]) for name in ("images", "labels", "class_names"))
            n_train = int(archive["n_train"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as problem:
        raise DataError(
            subject,
            expected="an uncompressed NumPy archive with images, labels, class_names and n_train",
            found=f"{type(problem).__name__}: {str(problem)[:120]}",
            hint="Write it with numpy.savez.",
        ) from None
    sound = (
        images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[1] in (1, 3)
        and labels.shape == (len(images),)
        and np.issubdtype(labels.dtype, np.integer)
        and names.ndim == 1
        and names.dtype.kind == "U"
        and 2 <= len(names) <= 32_767
        and 0 < n_train < len(images)
        and 0 <= labels.min()
        and labels.max() < len(names)
    )
    if not sound:
        raise DataError(
            subject,
            expected="images uint8 [n, 1 or 3, h, w], labels of [0, k), class_names [k] and n_train in (0, n)",
            found=f"images {images.dtype} {list(images.shape)}, labels {labels.dtype} {list(labels.shape)}, "
            f"{names.size} names, n_train {n_train}",
            hint="Write it with numpy.savez.",
        )
    train = stratified_rows(labels[:n_train], request.train_limit, request.seed, "train_limit")
    held = n_train + stratified_rows(labels[n_train:], request.holdout_limit, request.seed, "holdout_limit")
    rows = np.concatenate([train, held])
    chosen = np.ascontiguousarray(images[rows])
    return LoadedDataset(
        name=f"npz:{argument}",
        class_names=tuple(str(name) for name in names),
        images=resize_all(chosen, request.image_size),
        labels=labels[rows].astype(np.int16),
        n_train=len(train),
        uris=[f"{argument}#row={row}" for row in rows.tolist()],
        digests=[hashlib.sha256(image.tobytes()).hexdigest() for image in chosen],
        encoded=None,
        mirror=False,
    )
