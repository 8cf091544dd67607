"""What is in a drop by its listing: data in the order of their keys, and what is no part of it, counted and named."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.intake.names import aside, claims_image, claims_other, is_list, shard_kind, unsafe
from components.common.intake.sources import LINK, Folder, printable

__all__ = ["Gone", "Listing", "PassedOver", "Rejected", "list_drop"]

_CHUNK_KEYS = 65_536
_NAMED = 1_000
_DEPTH = 3


class Rejected(NamedTuple):
    """One sample that is left out: its key in the drop, one of ``REJECT_REASONS``, and what was seen; printable."""

    key: str
    reason: str
    detail: str


class PassedOver:
    """What is no part of a drop: counted by reason, and of each reason the first thousand by name.

    Attributes:
        counts: How many there are of each reason.
        named: The first of each, as they stand in the table of what was left out.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.named: list[Rejected] = []

    def add(self, key: str, reason: str, detail: str) -> None:
        """Passes over one file."""
        self.counts[reason] += 1
        if self.counts[reason] <= _NAMED:
            self.named.append(Rejected(printable(key), reason, printable(detail)))

    def add_all(self, keys: pa.Array, reason: str, detail: str) -> None:
        """Passes over several files."""
        if not len(keys):
            return
        self.named += [
            Rejected(printable(key), reason, detail)
            for key in keys.slice(0, max(0, _NAMED - self.counts[reason])).to_pylist()
        ]
        self.counts[reason] += len(keys)


@dataclass(slots=True)
class Gone:
    """What is not read of a folder.

    Attributes:
        passed: Files that are passed over.
        rejected: Files that are refused.
        images: How many of both claim to be images, links to folders among them.
        others: How many are passed over as no images by name.
    """

    passed: int = 0
    rejected: int = 0
    images: int = 0
    others: int = 0

    @property
    def is_class(self) -> bool:
        """Whether the folder is that of a class that has lost its images, and not one of other things."""
        return self.images > 0 or self.others == 0


@dataclass(kw_only=True, slots=True)
class Listing:
    """A drop's files by their names.

    Attributes:
        keys: Files that may be data, in the order of their keys, relative to the folder.
        sizes: int64, their lengths in bytes.
        rejected: Keys that must not be followed.
        passed: What is no part of the data.
        gone: What is not read, by the first folders of its key; an empty folder has zeros.
    """

    keys: pa.Array
    sizes: npt.NDArray[np.int64]
    rejected: list[Rejected] = field(default_factory=list)
    passed: PassedOver = field(default_factory=PassedOver)
    gone: dict[str, Gone] = field(default_factory=dict)

    def only(self, mask: pa.Array, reason: str, detail: str) -> Listing:
        """The files of a mask; the others are passed over."""
        others = self.keys.filter(pc.invert(mask))
        self.passed.add_all(others, reason, detail)
        return Listing(
            keys=self.keys.filter(mask),
            sizes=self.sizes[mask.to_numpy(zero_copy_only=False)],
            rejected=self.rejected,
            passed=self.passed,
            gone=self.gone,
        )


_DETAILS = {
    "litter": "left by a system or program, no data of yours",
    "hidden": "its name, or that of a folder above it, begins with a dot",
    "note": "its name, or that of a folder above it, begins with '_', and it claims to be no image",
    "other": "by its name no image",
}


def list_drop(folder: Folder) -> Listing:
    """Lists a drop.

    Raises:
        DataError: A folder cannot be read.
        StorageError: The store cannot serve.
    """
    found = Listing(keys=pa.array([], pa.string()), sizes=np.zeros(0, np.int64))
    chunks: list[pa.Array] = []
    names: list[str] = []
    # Millions of Python integers would take four times as much.
    sizes = array("q")
    for key, size in folder.entries():
        if not _is_data(key, size, found):
            continue
        names.append(key)
        sizes.append(size)
        if len(names) == _CHUNK_KEYS:
            chunks.append(pa.array(names, pa.string()))
            names = []
    keys = pa.concat_arrays([*chunks, pa.array(names, pa.string())])
    order = pc.sort_indices(keys)
    found.keys = keys.take(order)
    found.sizes = np.frombuffer(sizes, dtype=np.int64)[order.to_numpy()]
    return found


def _is_data(key: str, size: int, found: Listing) -> bool:
    reason = aside(key)
    is_folder = key.endswith("/")
    why = None if reason else "a link, or no plain file" if size == LINK else unsafe(key[:-1] if is_folder else key)
    if reason is None and why is None and not is_folder:
        if not claims_other(key) or shard_kind(key) or is_list(key):
            return True
        reason = "other"
    gone = found.gone.setdefault(_folder_of(key, reason), Gone())
    if why is not None:
        found.rejected.append(Rejected(printable(key), "unsafe_key", why))
        gone.rejected += 1
        gone.images += is_folder or claims_image(key)
    elif reason is not None:
        if not is_folder:
            found.passed.add(key, reason, _DETAILS[reason])
            gone.passed += 1
            gone.images += claims_image(key)
            gone.others += reason in ("other", "note")
    return False


def _folder_of(key: str, reason: str | None) -> str:
    """The first folders of a key, without those that are passed over themselves."""
    kept: Sequence[str] = key.split("/")[:-1][:_DEPTH]
    if reason in ("litter", "hidden"):
        places = [position for position in range(len(kept)) if aside(f"{kept[position]}/") is not None]
        kept = kept[: places[0]] if places else kept
    path = "/".join(kept)
    # A folder that leads elsewhere is nobody's class.
    return path if path and unsafe(f"{path}/x") is None else ""
