"""Hugging Face style Parquet folders: ``image: struct{bytes, path}`` and ``label``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from components.common.contracts.errors import ConfigError, DataError, ResourceError
from components.common.datasets.base import (
    DATASETS,
    Int16s,
    IntRows,
    LoadedDataset,
    LoadRequest,
    Pixels,
    check_classes,
    stratified_rows,
)
from components.common.intake import parquet_files as files
from components.common.intake.images import decode

__all__ = ["load_parquet"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    uri: str
    rows: IntRows


@DATASETS.register("parquet")
def load_parquet(argument: str, request: LoadRequest) -> LoadedDataset:
    """Loads the images of a folder or key prefix of Parquet files.

    Files named ``train*.parquet``, at any depth, are the training samples, ``test*.parquet`` the holdout. Where there
    is no test file, ``validation*.parquet`` is the holdout; where there is one, validation files are left out. Files
    are taken in the order of their sorted URIs, rows in the order of the file.

    Each file has a column ``image`` (or ``img``), a struct with a binary field ``bytes`` that holds a JPEG or PNG
    image, and an integer column ``label``. Class names come from the ClassLabel feature in the files' ``huggingface``
    metadata, else they are "0", "1", … Images become RGB unless all images loaded are grey, which gives one channel.

    Labels are read first and limits applied to them, so that only the chosen images are decoded; images are read in
    batches of bounded size. Files are hostile until shown otherwise: see ``_images.decode`` for the caps.

    Args:
        argument: Folder or key prefix, as the request's source lists it.
        request: What to load.

    Raises:
        ConfigError: No folder was given, or a limit is lower than the number of classes.
        DataError: No train or holdout file, a missing column, a null or broken image, a label that is null, negative
            or beyond the classes, a class without samples, images of different sizes while image_size is 0.
        ResourceError: The images do not fit into memory.
    """
    if not argument:
        raise ConfigError(
            "dataset 'parquet'",
            expected="parquet:<folder or prefix>",
            found="no folder",
            hint="For example parquet:/data/pets or parquet:s3://bucket/pets.",
        )
    train_uris, holdout_uris = _list(argument, request)
    read = [files.read_labels(request.source, uri) for uri in (*train_uris, *holdout_uris)]
    class_names = files.common_class_names(read)
    train, holdout = read[: len(train_uris)], read[len(train_uris) :]
    if class_names is None:
        highest = max(int(file.labels.max()) for file in train)
        class_names = tuple(str(k) for k in range(highest + 1))
    for file in read:
        files.check_range(file, len(class_names))
    check_classes(np.concatenate([file.labels for file in train]), class_names, f"parquet:{argument}")
    train_parts, train_labels = _choose(train, request.train_limit, request.seed, "train_limit")
    holdout_parts, holdout_labels = _choose(holdout, request.holdout_limit, request.seed, "holdout_limit")
    parts = train_parts + holdout_parts
    canvas, digests, encoded = _decode_all(parts, request)
    return LoadedDataset(
        name=f"parquet:{argument}",
        class_names=class_names,
        images=canvas,
        labels=np.concatenate([train_labels, holdout_labels]),
        n_train=len(train_labels),
        uris=[f"{part.uri}#row={row}" for part in parts for row in part.rows],
        digests=digests,
        encoded=encoded,
        mirror=True,
    )


def _list(prefix: str, request: LoadRequest) -> tuple[list[str], list[str]]:
    uris = sorted(request.source.list(prefix))

    def named(pattern: str) -> list[str]:
        return [uri for uri in uris if fnmatchcase(uri.rsplit("/", 1)[-1].rsplit(os.sep, 1)[-1], pattern)]

    train, test, validation = named("train*.parquet"), named("test*.parquet"), named("validation*.parquet")
    seen = f"{len(uris)} files" + (f", the first '{uris[0]}'" if uris else "")
    if not train:
        raise DataError(
            f"parquet:{prefix}",
            expected="at least one file named train*.parquet",
            found=seen,
            hint="Check the folder or prefix and the names of the files.",
        )
    if not test and not validation:
        raise DataError(
            f"parquet:{prefix}",
            expected="a holdout in files named test*.parquet (or validation*.parquet)",
            found=f"{len(train)} train files and no test file among {seen}",
            hint="Put samples aside that are not trained on, as test*.parquet; accuracy is measured on them.",
        )
    if test and validation:
        _log.info("parquet:%s: test*.parquet is the holdout, %d validation files left out", prefix, len(validation))
    return train, test or validation


def _choose(read: Sequence[files.FileLabels], limit: int, seed: int, subject: str) -> tuple[list[_Part], Int16s]:
    labels = np.concatenate([file.labels for file in read])
    rows = stratified_rows(labels, limit, seed, subject)
    starts = np.cumsum([0, *(len(file.labels) for file in read)])
    bounds = np.searchsorted(rows, starts)
    parts = [
        _Part(uri=file.uri, rows=rows[bounds[i] : bounds[i + 1]] - starts[i])
        for i, file in enumerate(read)
        if bounds[i] < bounds[i + 1]
    ]
    return parts, labels[rows].astype(np.int16)


class _Canvas:
    """The growing result: its shape is that of the first image, and it turns to RGB at the first coloured one."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._filled = 0
        self._array: Pixels | None = None

    def add(self, pixels: Pixels, subject: str) -> None:
        channels, height, width = pixels.shape
        if self._array is None:
            self._array = self._allocate(channels, height, width)
        if self._array.shape[2:] != (height, width):
            expected = self._array.shape[2:]
            raise DataError(
                subject,
                expected=f"an image of {expected[1]}x{expected[0]} pixels like those before it",
                found=f"{width}x{height}",
                hint="Set image_size to resize all images to one square size.",
            )
        if channels > self._array.shape[1]:
            grey = self._array
            self._array = self._allocate(channels, height, width)
            self._array[: self._filled] = grey[: self._filled]
        self._array[self._filled] = pixels
        self._filled += 1

    def finish(self) -> Pixels:
        if self._array is None or self._filled != self._rows:
            raise ValueError(f"{self._filled} of {self._rows} images were added")
        return self._array

    def _allocate(self, channels: int, height: int, width: int) -> Pixels:
        try:
            return np.empty((self._rows, channels, height, width), dtype=np.uint8)
        except MemoryError:
            gigabytes = self._rows * channels * height * width / 1e9
            raise ResourceError(
                f"{self._rows} images of {channels}x{height}x{width}",
                expected=f"{gigabytes:.1f} GB of memory",
                found="less",
                hint="Set train_limit, holdout_limit or image_size, or give the stage more memory.",
            ) from None


def _decode_all(parts: Sequence[_Part], request: LoadRequest) -> tuple[Pixels, list[str], list[bytes] | None]:
    canvas = _Canvas(sum(len(part.rows) for part in parts))
    digests: list[str] = []
    encoded: list[bytes] | None = [] if request.keep_encoded else None
    # Pillow lets go of the interpreter lock while it decodes, so threads help with large images;
    # at 32 pixels they neither help nor hurt.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for subjects, blobs in _chosen_images(parts, request):
            decoded = pool.map(decode, blobs, [request.image_size] * len(blobs), subjects)
            for image, subject in zip(decoded, subjects, strict=True):
                canvas.add(image.pixels, subject)
                digests.append(image.digest)
            if encoded is not None:
                encoded.extend(blobs)
    return canvas.finish(), digests, encoded


def _chosen_images(parts: Sequence[_Part], request: LoadRequest) -> Iterator[tuple[list[str], list[bytes]]]:
    for part in parts:
        for start, batch in files.image_batches(request.source, part.uri):
            low, high = np.searchsorted(part.rows, [start, start + len(batch)])
            chosen = part.rows[low:high]
            if len(chosen):
                subjects = [f"{part.uri}, row {row}" for row in chosen]
                yield subjects, _bytes_of(batch, chosen - start, subjects)
            if high == len(part.rows):
                break


def _bytes_of(batch: pa.Array, rows: IntRows, subjects: Sequence[str]) -> list[bytes]:
    blobs: list[bytes] = []
    for row, subject in zip(rows, subjects, strict=True):
        value = batch[int(row)].as_py()
        if value is None:
            raise DataError(
                subject,
                expected="an encoded image in image.bytes",
                found="null",
                hint="Store the image's bytes in the file; paths to other files are not followed.",
            )
        blobs.append(value)
    return blobs
