"""A drop that a list describes: the list alone says what belongs to it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import DataError
from components.common.intake.catalogue import Catalogue, losses_of
from components.common.intake.columns import ColumnNames
from components.common.intake.labels import in_order
from components.common.intake.layout import splits_of_keys, splits_of_shards
from components.common.intake.listing import Listing, Rejected
from components.common.intake.lists import Listed
from components.common.intake.names import unsafe
from components.common.intake.sources import Folder, printable

__all__ = ["listed_catalogue"]

# How the cleaned index of shards names a row; more digits than a shard may have rows.
_SHARD_ROW = r"(?i)^(?P<file>.+\.(?:parquet|arrow|tar))#row=(?P<row>[0-9]{1,7})$"
_ROW_BITS = 24
_PAIR_BITS = 32


def listed_catalogue(
    folder: Folder, listing: Listing, lists: list[str], listed: Listed, names: ColumnNames, *, holdout: bool
) -> Catalogue:
    """What a list says of a drop.

    Args:
        folder: The drop.
        listing: Its files.
        lists: The lists among them.
        listed: What they say.
        names: The columns that the user names.
        holdout: Whether the drop as a whole is a holdout.

    Raises:
        DataError: It names files and rows of shards, too many classes, or splits with two meanings.
    """
    texts = listed.keys.to_pylist()
    why = [unsafe(text) for text in texts]
    # A name that is not safe is looked up nowhere.
    safe = pa.array([text if reason is None else None for text, reason in zip(texts, why, strict=True)], pa.string())
    position, row_of = _places(safe, listing.keys)
    usable = position >= 0
    rejected: list[Rejected] = []
    for at in np.unique(listed.key_codes[~usable[listed.key_codes]]):
        unfit = why[at]
        reason, detail = ("unsafe_key", unfit) if unfit else ("missing", "the list names it, and the drop has it not")
        rejected.append(Rejected(printable(texts[at]), reason, detail))
    good_row = usable[listed.key_codes]
    good_row &= _told(listed, texts, good_row, rejected)
    classes, labels = in_order(listed.labels, listed.label_codes[good_row], folder.location)
    chosen = listed.key_codes[good_row]
    of_shards = row_of[chosen] >= 0
    if of_shards.any() and not of_shards.all():
        raise DataError(
            f"{folder.location}/{lists[0]}, keys",
            expected="either files or rows of Parquet shards (part.parquet#row=17)",
            found="both",
            hint="Make it two drops.",
        )
    place, row_ref = np.unique(position[chosen] << _ROW_BITS | np.maximum(row_of[chosen], 0), return_inverse=True)
    used, shard = np.unique(place >> _ROW_BITS, return_inverse=True)
    _pass_over(listing, lists, used)
    keys = listing.keys.take(pa.array(used))
    holdouts = _splits(listed, good_row, keys, shard if of_shards.any() else None, row_ref, folder, holdout=holdout)
    return Catalogue(
        folder=folder,
        form="list",
        reading=f"{' and '.join(lists[:2])}{' and more' if len(lists) > 2 else ''}: {listed.columns}",
        names=names,
        keys=keys,
        sizes=listing.sizes[used],
        shard=shard.astype(np.int32) if of_shards.any() else None,
        shard_row=place & (1 << _ROW_BITS) - 1 if of_shards.any() else None,
        row_ref=row_ref.astype(np.int32),
        labels=labels,
        class_names=classes,
        holdout=holdouts,
        rejected=rejected,
        rejected_rows=int((~good_row).sum()),
        passed=listing.passed,
        losses=losses_of(listed.labels, np.bincount(listed.label_codes[~good_row], minlength=len(listed.labels))),
    )


def _told(
    listed: Listed, texts: list[str], good_row: npt.NDArray[np.bool_], rejected: list[Rejected]
) -> npt.NDArray[np.bool_]:
    """Which rows have a usable label and split; the others are told."""
    good = good_row.copy()
    label_ok = np.array([label is not None for label in listed.labels], dtype=bool)
    split_ok = np.array([split >= 0 for split in listed.splits], dtype=bool)
    for codes, fine, values, word in (
        (listed.label_codes, label_ok, listed.label_texts, "no_label"),
        (listed.split_codes, split_ok, listed.split_texts, "subset"),
    ):
        if codes is None:
            continue
        bad = np.flatnonzero(good & ~fine[codes])
        # Every different mention is told once: a list of kilobytes can repeat one millions of times.
        for pair in np.unique(listed.key_codes[bad].astype(np.int64) << _PAIR_BITS | codes[bad]).tolist():
            key, value = texts[pair >> _PAIR_BITS], values[pair & (1 << _PAIR_BITS) - 1]
            rejected.append(Rejected(printable(key), word, value))
        good &= fine[codes]
    return good


def _splits(
    listed: Listed,
    good_row: npt.NDArray[np.bool_],
    keys: pa.Array,
    shard: npt.NDArray[np.int64] | None,
    row_ref: npt.NDArray[np.int64],
    folder: Folder,
    *,
    holdout: bool,
) -> npt.NDArray[np.int8] | None:
    """The split of each row: what the list says, else what the names of folders or shards say."""
    if listed.split_codes is not None:
        return np.array(listed.splits, np.int8)[listed.split_codes[good_row]]
    if shard is not None:
        by_shard, _ = splits_of_shards(keys.to_pylist(), folder.location, holdout=holdout)
        return None if by_shard is None else np.array(by_shard, np.int8)[shard[row_ref]]
    encoded = pc.replace_substring_regex(keys, r"/?[^/]*$", "").dictionary_encode()
    of_row = encoded.indices.to_numpy()[row_ref]
    # A label of each folder: that of one of its rows.
    labels = np.zeros(len(encoded.dictionary), dtype=np.int64)
    labels[of_row] = listed.label_codes[good_row]
    found = splits_of_keys(
        encoded.dictionary.to_pylist(), [listed.labels[code] for code in labels], folder.location, holdout=holdout
    )
    return None if found is None else np.array(found, np.int8)[of_row]


def _pass_over(listing: Listing, lists: list[str], used: npt.NDArray[np.int64]) -> None:
    unused = np.ones(len(listing.keys), dtype=bool)
    unused[used] = False
    unused &= ~pc.is_in(listing.keys, pa.array(lists)).to_numpy(zero_copy_only=False)
    listing.passed.add_all(listing.keys.filter(pa.array(unused)), "unlisted", "the list does not name it")


def _places(names: pa.Array, keys: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the names of a list are in the drop: position of the file, -1 for none, and row of a shard, -1 for a file.

    Args:
        names: The names, null for those that must not be looked up.
        keys: The drop's files.
    """
    file = _index_in(names, keys)
    parts = pc.extract_regex(names, _SHARD_ROW)
    shard = _index_in(pc.struct_field(parts, "file"), keys)
    row = pc.fill_null(pc.struct_field(parts, "row").cast(pa.int64()), -1).to_numpy()
    return np.where(file >= 0, file, shard), np.where((file < 0) & (shard >= 0), row, -1)


def _index_in(names: pa.Array, keys: pa.Array) -> npt.NDArray[np.int64]:
    exact: npt.NDArray[np.int64] = pc.fill_null(pc.index_in(names, keys), -1).to_numpy().astype(np.int64)
    absent = np.flatnonzero((exact < 0) & names.is_valid().to_numpy(zero_copy_only=False))
    if len(absent):
        # A list from one system and files from another: é as one character and as two.
        wanted, known = (pc.utf8_normalize(texts, "NFC") for texts in (names.take(pa.array(absent)), keys))
        exact[absent] = pc.fill_null(pc.index_in(wanted, known), -1).to_numpy()
    return exact
