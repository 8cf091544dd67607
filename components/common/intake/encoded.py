"""The encoded images of a drop's rows, read a second time: decoding hands on pixels alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.common.contracts.errors import DataError
from components.common.intake.apart import Apart, EndedError
from components.common.intake.catalogue import Catalogue
from components.common.intake.columns import ColumnNames
from components.common.intake.result import Drop
from components.common.intake.shards import shard_images

__all__ = ["encoded_images"]

_CHUNK_ROWS = 4_096


def encoded_images(drop: Drop, scratch: Path) -> list[bytes]:
    """The encoded image of each row of a drop, in the order of its rows.

    Args:
        drop: The drop.
        scratch: Folder for local copies.

    Raises:
        DataError: An image has changed since it was decoded.
        StorageError: The store cannot serve.
    """
    found: dict[int, bytes] = {}
    with Apart() as apart:
        for catalogue, refs, start in drop.parts():
            used = np.unique(refs)
            images = (
                _of_files(catalogue, used) if catalogue.shard is None else _of_shards(catalogue, used, scratch, apart)
            )
            if len(images) != len(used):
                raise _changed(catalogue)
            found.update(zip((used + start).tolist(), images, strict=True))
    return [found[ref] for ref in drop.refs.tolist()]


def _of_files(catalogue: Catalogue, refs: npt.NDArray[np.int32]) -> list[bytes]:
    keys = catalogue.key_array(refs).to_pylist()
    sizes = catalogue.sizes[refs].tolist()
    read = [catalogue.folder.read(key, size) for key, size in zip(keys, sizes, strict=True)]
    return [data for data in read if data is not None]


def _of_shards(catalogue: Catalogue, refs: npt.NDArray[np.int32], scratch: Path, apart: Apart) -> list[bytes]:
    images: list[bytes] = []
    shards, rows = catalogue.shard, catalogue.shard_row
    if shards is None or rows is None:
        return images
    for shard in np.unique(shards[refs]).tolist():
        key = catalogue.keys[shard].as_py()
        path = catalogue.folder.fetch(key, scratch)
        mine = rows[refs[shards[refs] == shard]]
        try:
            for start in range(0, len(mine), _CHUNK_ROWS):
                images += apart.call(_read, path, key, catalogue.names, mine[start : start + _CHUNK_ROWS])
        except EndedError:
            raise _changed(catalogue) from None
        finally:
            if path.is_relative_to(scratch):
                path.unlink()
    return images


def _read(path: Path, key: str, names: ColumnNames, rows: npt.NDArray[np.int64]) -> list[bytes]:
    return [image for image in shard_images(path, key, names, rows) if isinstance(image, bytes)]


def _changed(catalogue: Catalogue) -> DataError:
    return DataError(
        f"drop {catalogue.folder.location}",
        expected="the images that were decoded a moment ago",
        found="others, or fewer",
        hint="Leave the drop alone while it is read.",
    )
