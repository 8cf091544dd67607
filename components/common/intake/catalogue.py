"""What a drop says it holds, before any image is read: references to images, labels and subsets, in compact arrays."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import DataError
from components.common.intake import lists, shards
from components.common.intake.apart import Apart
from components.common.intake.sources import LINK, Folder, printable, unsafe

__all__ = ["Catalogue", "Rejected", "read_catalogue"]

_log = logging.getLogger(__name__)

_CHUNK_KEYS = 65_536
_MAX_CLASSES = 32_767
_MAX_NAME = 200
_LISTS = ("index.parquet", "index.csv")
# How the cleaned index of shards names a row; more digits than a shard may have rows.
_SHARD_ROW = r"^(?P<file>.+\.parquet)#row=(?P<row>[0-9]{1,7})$"
_ROW_BITS = 24
_PAIR_BITS = 32
_GIVEN = {"train": 0, "holdout": 1}


class Rejected(NamedTuple):
    """One sample that is left out: its key in the drop, one of ``REJECT_REASONS``, and what was seen; printable."""

    key: str
    reason: str
    detail: str


@dataclass(kw_only=True, slots=True)
class Catalogue:
    """A drop's content by what its listing and labels say.

    Several rows may refer to one image. A reference is a position in ``keys``, or, where images are rows of shards,
    a position in ``shard`` and ``shard_row``.

    Attributes:
        folder: Where the drop lies.
        form: ``folders``, ``list`` or ``shards``.
        keys: Files, relative to the folder.
        sizes: int64, their lengths in bytes.
        shard: int32 [references], position in ``keys``; None unless the images are rows of shards.
        shard_row: int64 [references], row in that shard; None as ``shard``.
        row_ref: int32 [rows], the image of each row.
        labels: int32 [rows], position in ``class_names``.
        class_names: Sorted, as numbers if all are.
        holdout: int8 [rows], 0 train and 1 holdout as given by the drop; None if it does not say.
        rejected: What is left out already.
        rejected_rows: How many rows that are.
        files: Number of Parquet shards, else 0.
        bad_files: How many of them cannot be read.
    """

    folder: Folder
    form: str
    keys: pa.Array
    sizes: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int32] | None = None
    shard_row: npt.NDArray[np.int64] | None = None
    row_ref: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    class_names: list[str]
    holdout: npt.NDArray[np.int8] | None = None
    rejected: list[Rejected] = field(default_factory=list)
    rejected_rows: int = 0
    files: int = 0
    bad_files: int = 0

    @property
    def references(self) -> int:
        """Number of images that rows can refer to."""
        return len(self.keys) if self.shard is None else len(self.shard)

    def key_array(self, refs: npt.NDArray[Any]) -> pa.Array:
        """Keys of references, as a string array; a row of a shard is ``<shard>#row=17``."""
        if self.shard is None or self.shard_row is None:
            return self.keys.take(pa.array(refs))
        files = self.keys.take(pa.array(self.shard[refs]))
        rows = pa.array(self.shard_row[refs]).cast(pa.string())
        return pc.binary_join_element_wise(files, rows, "#row=")


def read_catalogue(folder: Folder, scratch: Path) -> Catalogue:
    """Finds out which form a drop has, and what it holds.

    Args:
        folder: The drop.
        scratch: Folder for copies of files that are read as a whole from the local disk.

    Raises:
        DataError: An empty drop, several forms at once, or a list that cannot be read.
    """
    keys, sizes, rejected = _listing(folder)
    if not len(keys):
        raise DataError(
            f"drop {folder.location}",
            expected="class folders of images, Parquet shards, or index.csv or index.parquet",
            found=f"{len(rejected)} files, none with a usable name" if rejected else "no files",
            hint="Check the address; names that begin with '.' or '_' are passed over.",
        )
    is_list = pc.is_in(keys, pa.array(_LISTS))
    if pc.any(is_list).as_py():
        catalogue = _listed(folder, keys, sizes, scratch)
    elif pc.any(pc.ends_with(keys, ".parquet")).as_py():
        catalogue = _sharded(folder, keys, sizes, scratch)
    else:
        catalogue = _class_folders(folder, keys, sizes)
    catalogue.rejected = rejected + catalogue.rejected
    catalogue.rejected_rows += len(rejected)
    return catalogue


def _listing(folder: Folder) -> tuple[pa.Array, npt.NDArray[np.int64], list[Rejected]]:
    """Safe keys in sorted order, their sizes, and what was refused."""
    rejected: list[Rejected] = []
    chunks: list[pa.Array] = []
    names: list[str] = []
    # Millions of Python integers would take four times as much.
    sizes = array("q")
    for key, size in folder.entries():
        if any(part.startswith(("_", ".")) and part not in (".", "..") for part in key.split("/")):
            continue
        why = "a link, or no plain file" if size == LINK else unsafe(key)
        if why is not None:
            rejected.append(Rejected(printable(key), "unsafe_key", why))
            continue
        names.append(key)
        sizes.append(size)
        if len(names) == _CHUNK_KEYS:
            chunks.append(pa.array(names, pa.string()))
            names = []
    keys = pa.concat_arrays([*chunks, pa.array(names, pa.string())])
    order = pc.sort_indices(keys)
    return keys.take(order), np.frombuffer(sizes, dtype=np.int64)[order.to_numpy()], rejected


def _class_folders(folder: Folder, keys: pa.Array, sizes: npt.NDArray[np.int64]) -> Catalogue:
    cut = pc.find_substring(keys, "/")
    named = pc.greater(cut, 0)
    rejected = [
        Rejected(printable(key), "no_label", "an image must lie in a folder named after its class")
        for key in keys.filter(pc.invert(named)).to_pylist()
    ]
    mask = named.to_numpy(zero_copy_only=False)
    keys, sizes = keys.filter(named), sizes[mask]
    labels = pc.replace_substring_regex(keys, r"/.*$", "")
    encoded = labels.dictionary_encode() if len(labels) else pa.array([], pa.dictionary(pa.int32(), pa.string()))
    names, codes = in_order(encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int32), folder)
    rows = np.arange(len(keys), dtype=np.int32)
    return Catalogue(
        folder=folder,
        form="folders",
        keys=keys,
        sizes=sizes,
        row_ref=rows,
        labels=codes,
        class_names=names,
        rejected=rejected,
        rejected_rows=len(rejected),
    )


def _listed(folder: Folder, keys: pa.Array, sizes: npt.NDArray[np.int64], scratch: Path) -> Catalogue:
    present = [name for name in _LISTS if pc.any(pc.equal(keys, name)).as_py()]
    if len(present) > 1:
        raise DataError(
            f"drop {folder.location}", expected="one list", found=" and ".join(present), hint="Remove one of them."
        )
    listed = lists.read_list(folder, present[0], scratch)
    rejected: list[Rejected] = []
    names = listed.keys.to_pylist()
    why = [unsafe(name) for name in names]
    # A name that is not safe is looked up nowhere.
    safe = pa.array([name if reason is None else None for name, reason in zip(names, why, strict=True)], pa.string())
    position, row_of = _places(safe, keys)
    usable = position >= 0
    for at in np.unique(listed.key_of[~usable[listed.key_of]]):
        unfit = why[at]
        if unfit is not None:
            rejected.append(Rejected(printable(names[at]), "unsafe_key", unfit))
        else:
            rejected.append(Rejected(names[at], "missing", "the list names it, and the drop has no such file"))
    label_ok = np.array([_usable_label(label) for label in listed.labels], dtype=bool)
    subset_code = np.array([_GIVEN.get(value or "", -1) for value in listed.subsets], dtype=np.int8)
    good_row = usable[listed.key_of]
    for codes, good, values, word in (
        (listed.label_of, label_ok, listed.labels, "no_label"),
        (listed.subset_of, subset_code >= 0, listed.subsets, "subset"),
    ):
        if codes is None:
            continue
        bad = np.flatnonzero(good_row & ~good[codes])
        # Every different mention is told once: a list of kilobytes can repeat one millions of times.
        for pair in np.unique(listed.key_of[bad].astype(np.int64) << _PAIR_BITS | codes[bad]).tolist():
            key, value = names[pair >> _PAIR_BITS], values[pair & (1 << _PAIR_BITS) - 1]
            rejected.append(Rejected(printable(key), word, lists.shown(value)))
        good_row &= good[codes]
    # Copies of a label's text that differ in nothing but surrounding blanks are one class.
    texts = [(label or "").strip() for label in listed.labels]
    classes, labels = in_order(texts, listed.label_of[good_row], folder)
    chosen = listed.key_of[good_row]
    of_shards = row_of[chosen] >= 0
    if of_shards.any() and not of_shards.all():
        raise DataError(
            f"{folder.location}/{present[0]}, keys",
            expected="either files or rows of Parquet shards (part.parquet#row=17)",
            found="both",
            hint="Make it two drops.",
        )
    place, row_ref = np.unique(position[chosen] << _ROW_BITS | np.maximum(row_of[chosen], 0), return_inverse=True)
    used, shard = np.unique(place >> _ROW_BITS, return_inverse=True)
    return Catalogue(
        folder=folder,
        form="list",
        keys=keys.take(pa.array(used)),
        sizes=sizes[used],
        shard=shard.astype(np.int32) if of_shards.any() else None,
        shard_row=place & (1 << _ROW_BITS) - 1 if of_shards.any() else None,
        row_ref=row_ref.astype(np.int32),
        labels=labels,
        class_names=classes,
        holdout=None if listed.subset_of is None else subset_code[listed.subset_of[good_row]],
        rejected=rejected,
        rejected_rows=int((~good_row).sum()),
    )


def _places(names: pa.Array, keys: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the names of a list lie in the drop: position of the file, -1 for none, and row of a shard, -1 for a file.

    Args:
        names: The names, null for those that must not be looked up.
        keys: The drop's files.
    """
    file = pc.fill_null(pc.index_in(names, keys), -1).to_numpy().astype(np.int64)
    parts = pc.extract_regex(names, _SHARD_ROW)
    shard = pc.fill_null(pc.index_in(pc.struct_field(parts, "file"), keys), -1).to_numpy().astype(np.int64)
    row = pc.fill_null(pc.struct_field(parts, "row").cast(pa.int64()), -1).to_numpy()
    return np.where(file >= 0, file, shard), np.where((file < 0) & (shard >= 0), row, -1)


def _sharded(folder: Folder, keys: pa.Array, sizes: npt.NDArray[np.int64], scratch: Path) -> Catalogue:
    mask = pc.ends_with(keys, ".parquet")
    others = len(keys) - pc.sum(mask).as_py()
    if others:
        _log.info("drop %s: %d files beside the Parquet shards are passed over", folder.location, others)
    keys, sizes = keys.filter(mask), sizes[mask.to_numpy(zero_copy_only=False)]
    rejected: list[Rejected] = []
    parts: list[tuple[int, shards.ShardLabels]] = []
    bad_files = 0
    with Apart() as apart:
        for position, key in enumerate(keys.to_pylist()):
            read = shards.read_shard_labels(folder, key, scratch, apart)
            if isinstance(read, tuple):
                rejected.append(Rejected(key, read[0], printable(read[1])))
                bad_files += 1
                continue
            rejected += [Rejected(f"{key}#row={row}", reason, printable(text)) for row, reason, text in read.rejected]
            parts.append((position, read))
    texts = [name for _, part in parts for name in part.names]
    starts = np.cumsum([0, *(len(part.names) for _, part in parts)])
    codes = [part.codes + start for (_, part), start in zip(parts, starts, strict=False)]
    names, labels = in_order(texts, np.concatenate([np.zeros(0, np.int32), *codes]).astype(np.int32), folder)
    given = any(part.holdout.any() for _, part in parts) or any(part.has_subset for _, part in parts)
    holdout = np.concatenate([np.zeros(0, np.int8), *(part.holdout for _, part in parts)])
    rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for _, part in parts)])
    return Catalogue(
        folder=folder,
        form="shards",
        keys=keys,
        sizes=sizes,
        shard=np.repeat(np.array([p for p, _ in parts], np.int32), [len(part.rows) for _, part in parts]),
        shard_row=rows,
        row_ref=np.arange(len(rows), dtype=np.int32),
        labels=labels,
        class_names=names,
        holdout=holdout if given else None,
        rejected=rejected,
        rejected_rows=len(rejected),
        files=len(keys),
        bad_files=bad_files,
    )


def in_order(texts: Sequence[str], codes: npt.NDArray[Any], folder: Folder) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Class names in order, and codes that refer to them instead of to ``texts``.

    Only texts that a code refers to become classes. Names are ordered as numbers if all of them are, else as text.

    Raises:
        DataError: A name that cannot be one, or too many.
    """
    present = set(_at(texts, np.unique(codes)))
    used = sorted(present, key=_numeric_order(present))
    if len(used) > _MAX_CLASSES:
        raise DataError(
            f"drop {folder.location}, classes",
            expected=f"at most {_MAX_CLASSES}",
            found=str(len(used)),
            hint="The first folder of a key names the class: check the layout.",
        )
    for name in used:
        if not _usable_label(name):
            raise DataError(
                f"drop {folder.location}, class names",
                expected=f"printable names of at most {_MAX_NAME} characters",
                found=repr(printable(name, 80)),
                hint="Rename the class.",
            )
    place = {name: position for position, name in enumerate(used)}
    return used, np.array([place.get(text, -1) for text in texts] or [0], dtype=np.int32)[codes]


def _at(texts: Sequence[str], positions: Iterable[int]) -> list[str]:
    return [texts[position] for position in positions]


def _numeric_order(names: set[str]) -> Any:
    return int if names and all(name.isascii() and name.isdigit() and len(name) < 19 for name in names) else None


def _usable_label(label: str | None) -> bool:
    text = (label or "").strip()
    return 0 < len(text) <= _MAX_NAME and text.isprintable()
