"""One door to every dataset: people's own data by ``drop:`` and ``parquet:``, and what has a file in ``datasets``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.common.contracts.errors import ConfigError
from components.common.datasets import base
from components.common.datasets.base import DATASETS, LoadedDataset
from components.common.intake.drop import DropOptions, read_drop
from components.common.intake.encoded import encoded_images
from components.common.intake.names import OWN
from components.common.intake.sources import Folder, LocalFolder

__all__ = ["OwnData", "load", "own_data"]

_PART_ROWS = 131_072


@dataclass(frozen=True, slots=True)
class OwnData:
    """Data of one's own.

    Attributes:
        location: Folder or ``s3://`` prefix.
        as_published: As in ``DropOptions``.
    """

    location: str
    as_published: bool


def own_data(name: str) -> OwnData | None:
    """What a dataset's name says of data of one's own; None if it is that of a dataset with a file here.

    Raises:
        ConfigError: No such dataset.
    """
    kind, _, argument = name.partition(":")
    if kind in OWN:
        return OwnData(argument, kind == "parquet")
    if kind not in DATASETS:
        known = [*DATASETS, *(f"{own}:FOLDER" for own in OWN)]
        raise ConfigError(
            f"dataset '{kind[:80]}'",
            expected=f"one of {', '.join(known)}",
            found="no such name",
            hint="`untaint list datasets` explains them.",
        )
    return None


def load(
    name: str,
    options: DropOptions,
    folder_of: Callable[[str], Folder] = LocalFolder,
    *,
    keep_encoded: bool = False,
) -> LoadedDataset:
    """Brings a dataset into memory; ``read_drop`` does without.

    Args:
        name: ``mnist5k``, ``cifar10``, ``drop:<folder or prefix>`` or ``parquet:<folder or prefix>``.
        options: Limits, size and seed; the rest is for data of one's own.
        folder_of: Makes the folder of a location.
        keep_encoded: Whether to keep the encoded images of published data in memory too.

    Returns:
        The dataset, uint8 images [n, c, h, w] and int16 labels [n].

    Raises:
        ConfigError: An unknown dataset, or a limit or size out of range.
        DataError: The files are missing, broken or of another form.
    """
    own = own_data(name)
    if own is None:
        return base.load(
            name,
            train_limit=options.train_limit,
            holdout_limit=options.holdout_limit,
            image_size=options.image_size,
            seed=options.seed,
        )
    scratch = Path(tempfile.mkdtemp(prefix="untaint-drop-"))
    try:
        drop = read_drop(own.location, options, folder_of, scratch)
        pixels = scratch / "pixels.npy"
        drop.write_pixels(pixels)
        index = pa.concat_tables(drop.index_tables(_PART_ROWS))
        return LoadedDataset(
            name=name,
            class_names=drop.class_names,
            images=np.load(pixels),
            labels=drop.labels,
            n_train=drop.n_train,
            uris=index["uri"].to_pylist(),
            digests=index["digest"].to_pylist(),
            encoded=encoded_images(drop, scratch) if keep_encoded and own.as_published else None,
            mirror=True,
        )
    finally:
        shutil.rmtree(scratch)
