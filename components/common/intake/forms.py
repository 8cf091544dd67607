"""The forms that a drop may have: class folders of images, files of many samples, or a list of keys and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import DataError
from components.common.datasets.base import MIN_CLASS_SAMPLES
from components.common.intake.apart import Apart
from components.common.intake.catalogue import Catalogue, ClassLoss, check_splits
from components.common.intake.columns import ColumnNames
from components.common.intake.labels import in_order, same_kind
from components.common.intake.layout import read_folders, splits_of_shards
from components.common.intake.listed import listed_catalogue
from components.common.intake.listing import Listing, Rejected, list_drop
from components.common.intake.lists import joined, read_list
from components.common.intake.names import IMAGE_ENDINGS, TRAIN, shard_kind
from components.common.intake.shards import ShardLabels, read_shard_labels
from components.common.intake.sources import Folder, printable

__all__ = ["FORMS", "read_catalogue"]

FORMS = "class folders of images, shards (.parquet, .arrow, .tar), or index.csv or metadata.csv with files and labels"
"""The forms, as messages name them."""

_SHARD = r"(?i)\.(parquet|arrow|tar)$"
_IMAGE = rf"\.((?i){'|'.join(sorted(IMAGE_ENDINGS))})$"
_INDEX = r"(?i)^index\.(csv|parquet)$"
_METADATA = r"(?i)(^|/)metadata\.(csv|jsonl|parquet)$"
# Results that Hugging Face datasets keeps beside the data that they were computed from.
_CACHE = r"(^|/)cache-[^/]*\.arrow$"
_KINDS = {"parquet": "Parquet", "arrow": "Arrow", "tar": "WebDataset"}


def read_catalogue(
    folder: Folder, scratch: Path, names: ColumnNames, *, holdout: bool = False, as_declared: bool = False
) -> Catalogue:
    """Finds out which form a drop has, and what it holds.

    Args:
        folder: The drop.
        scratch: Folder for copies of files that are read as a whole from the local disk.
        names: The columns that the user names.
        holdout: Whether the drop as a whole is a holdout.
        as_declared: Whether classes come in the order in which shards declare them.

    Raises:
        DataError: An empty drop, several forms at once, a list that cannot be read, or a layout with two meanings.
    """
    listing = list_drop(folder)
    lists = _lists(listing, folder)
    parts = [part for key in lists if (part := read_list(folder, key, scratch, names)) is not None]
    if lists and not parts:
        listing = _without_lists(listing)
    if not len(listing.keys):
        raise _nothing(folder, listing)
    if parts:
        catalogue = listed_catalogue(folder, listing, lists, joined(parts), names, holdout=holdout)
    elif pc.any(pc.match_substring_regex(listing.keys, _SHARD)).as_py():
        catalogue = _sharded(folder, listing, scratch, names, holdout=holdout, as_declared=as_declared)
    else:
        catalogue = _class_folders(folder, listing, names, holdout=holdout)
    catalogue.rejected = listing.rejected + catalogue.rejected
    catalogue.rejected_rows += len(listing.rejected)
    if holdout:
        check_splits(catalogue)
    return catalogue


def _lists(listing: Listing, folder: Folder) -> list[str]:
    """The lists of a drop: its index, or else its metadata files."""
    found: list[str] = listing.keys.filter(pc.match_substring_regex(listing.keys, _INDEX)).to_pylist()
    if len(found) > 1:
        raise DataError(
            f"drop {folder.location}", expected="one list", found=" and ".join(found), hint="Remove one of them."
        )
    return found or listing.keys.filter(pc.match_substring_regex(listing.keys, _METADATA)).to_pylist()


def _without_lists(listing: Listing) -> Listing:
    mask = pc.invert(pc.match_substring_regex(listing.keys, _METADATA))
    return listing.only(mask, "other", "a list without a column of files and one of labels (--label-column names it)")


def _nothing(folder: Folder, listing: Listing) -> DataError:
    found = "no files"
    if listing.rejected:
        found = f"{len(listing.rejected)} files, none with a usable name"
    elif listing.passed.named:
        count, first = listing.passed.counts.total(), listing.passed.named[0]
        found = f"no images, and {count} files that are passed over, such as {first.key}"
    return DataError(
        f"drop {folder.location}", expected=FORMS, found=found, hint="Check the address; unpack what is an archive."
    )


def _class_folders(folder: Folder, listing: Listing, names: ColumnNames, *, holdout: bool) -> Catalogue:
    encoded = pc.replace_substring_regex(listing.keys, r"/?[^/]*$", "").dictionary_encode()
    folders = encoded.dictionary.to_pylist()
    of_file = encoded.indices.to_numpy().astype(np.int32)
    layout = read_folders(folders, folder.location, holdout=holdout)
    labels = [layout.label(name) for name in folders]
    named = np.array([label is not None for label in labels], dtype=bool)[of_file]
    rejected = [
        Rejected(printable(key), "no_label", "an image must be in a folder that is named after its class")
        for key in listing.keys.filter(pa.array(~named)).to_pylist()
    ]
    class_names, codes = in_order(labels, of_file[named], folder.location)
    keys = listing.keys.filter(pa.array(named))
    splits = [layout.split(name) for name in folders]
    has_split = layout.split_at >= 0
    return Catalogue(
        folder=folder,
        form="folders",
        reading=layout.reading,
        names=names,
        keys=keys,
        sizes=listing.sizes[named],
        row_ref=np.arange(len(keys), dtype=np.int32),
        labels=codes,
        class_names=class_names,
        holdout=np.array([split or TRAIN for split in splits], np.int8)[of_file[named]] if has_split else None,
        rejected=rejected,
        rejected_rows=len(rejected),
        passed=listing.passed,
        losses=_folder_losses(listing, layout.label, set(class_names)),
    )


def _folder_losses(
    listing: Listing, label_of_folder: Callable[[str], str | None], used: set[str]
) -> dict[str, ClassLoss]:
    losses: dict[str, ClassLoss] = {}
    for name, gone in listing.gone.items():
        label = label_of_folder(name)
        if label is not None and (label in used or gone.is_class):
            loss = losses.setdefault(label, ClassLoss())
            loss.rejected += gone.rejected
            loss.passed += gone.passed
    return losses


def _sharded(
    folder: Folder, listing: Listing, scratch: Path, names: ColumnNames, *, holdout: bool, as_declared: bool
) -> Catalogue:
    listing = _only_shards(folder, listing)
    keys: list[str] = listing.keys.to_pylist()
    rejected: list[Rejected] = []
    parts: list[tuple[int, ShardLabels]] = []
    with Apart() as apart:
        for position, key in enumerate(keys):
            read = read_shard_labels(folder, key, scratch, apart, names)
            if isinstance(read, tuple):
                rejected.append(Rejected(key, read[0], printable(read[1])))
                continue
            rejected += [Rejected(f"{key}#row={row}", reason, printable(text)) for row, reason, text in read.rejected]
            parts.append((position, read))
    bad_files = len(keys) - len(parts)
    same_kind([(keys[position], part.kind) for position, part in parts], folder.location)
    texts = [name for _, part in parts for name in part.names]
    starts = np.cumsum([0, *(len(part.names) for _, part in parts)])
    codes = [part.codes + start for (_, part), start in zip(parts, starts, strict=False)]
    declared = list(dict.fromkeys(name for _, part in parts for name in part.declared))
    used = np.concatenate([np.zeros(0, np.int32), *codes]).astype(np.int32)
    class_names, labels = in_order(texts, used, folder.location, declared if as_declared else ())
    by_name, split_reading = splits_of_shards(keys, folder.location, holdout=holdout)
    rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for _, part in parts)])
    kind = _KINDS[shard_kind(keys[0]) or ""]
    columns = list(dict.fromkeys(part.columns for _, part in parts))
    reading = [
        f"{len(keys)} {kind} {'shard' if len(keys) == 1 else 'shards'}",
        *columns,
        *filter(None, [split_reading]),
    ]
    return Catalogue(
        folder=folder,
        form="shards",
        reading="; ".join(reading),
        names=names,
        keys=listing.keys,
        sizes=listing.sizes,
        shard=np.repeat(np.array([p for p, _ in parts], np.int32), [len(part.rows) for _, part in parts]),
        shard_row=rows,
        row_ref=np.arange(len(rows), dtype=np.int32),
        labels=labels,
        class_names=class_names,
        holdout=_splits(parts, by_name),
        rejected=rejected,
        rejected_rows=len(rejected),
        passed=listing.passed,
        losses=_shard_losses(parts, declared if bad_files else []),
        files=len(keys),
        bad_files=bad_files,
    )


def _only_shards(folder: Folder, listing: Listing) -> Listing:
    listing = listing.only(pc.invert(pc.match_substring_regex(listing.keys, _CACHE)), "other", "a cache of datasets")
    mask = pc.match_substring_regex(listing.keys, _SHARD)
    beside = listing.keys.filter(pc.invert(mask))
    pictures = pc.sum(pc.match_substring_regex(beside, rf"/[^/]*{_IMAGE}")).as_py() or 0
    kinds = sorted({str(shard_kind(key)) for key in listing.keys.filter(mask).to_pylist()})
    if pictures >= MIN_CLASS_SAMPLES or len(kinds) > 1:
        shards = " and ".join(f".{kind}" for kind in kinds)
        raise DataError(
            f"drop {folder.location}",
            expected="one form of data",
            found=f"{shards} shards" + (f", and {pictures} images in folders" if pictures else ""),
            hint="Make it several drops, or move away what is not meant.",
        )
    return listing.only(mask, "beside", "beside shards, which are read alone")


def _splits(parts: list[tuple[int, ShardLabels]], by_name: list[int] | None) -> npt.NDArray[np.int8] | None:
    """The split of each row: what the shard's column says, else what its name says."""
    if by_name is None and all(part.split is None for _, part in parts):
        return None
    found = [
        part.split
        if part.split is not None
        else np.full(len(part.rows), by_name[position] if by_name else TRAIN, np.int8)
        for position, part in parts
    ]
    return np.concatenate([np.zeros(0, np.int8), *found])


def _shard_losses(parts: list[tuple[int, ShardLabels]], declared: list[str]) -> dict[str, ClassLoss]:
    # Where a shard cannot be read, a class that is declared and has no row may have been in it.
    losses = {name: ClassLoss() for name in declared}
    for _, part in parts:
        for name, count in zip(part.names, part.lost.tolist(), strict=True):
            if name is not None and count:
                losses.setdefault(name, ClassLoss()).rejected += count
    return losses
