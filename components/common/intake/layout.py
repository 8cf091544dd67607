"""How people's folders and files are read: which part of a path names the class, and which one the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.common.contracts.errors import DataError
from components.common.intake.labels import label_of
from components.common.intake.names import HOLDOUT, TRAIN, split_of_file, split_of_folder
from components.common.intake.sources import printable

__all__ = ["Layout", "read_folders", "splits_of_keys", "splits_of_shards"]

_RENAME = "Rename the folders, or say it in a list (index.csv with key, label and split)."


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How class folders are read.

    Attributes:
        class_at: Which part of a path names the class.
        split_at: Which part names the split; -1 if none does.
        reading: The same as a sentence.
    """

    class_at: int
    split_at: int
    reading: str

    def label(self, folder: str) -> str | None:
        """The class of a folder's files; None if the path is too short, or the name is no label."""
        parts = folder.split("/") if folder else []
        return label_of(parts[self.class_at]) if len(parts) > max(self.class_at, self.split_at) else None

    def split(self, folder: str) -> int | None:
        """The split of a folder's files; None if none is known."""
        parts = folder.split("/") if folder else []
        return split_of_folder(parts[self.split_at]) if 0 <= self.split_at < len(parts) else None


def read_folders(folders: Sequence[str], location: str, *, holdout: bool = False) -> Layout:
    """Finds out which part of the paths names the class.

    Args:
        folders: The different folders in which images are, relative to the drop; empty for the drop itself.
        location: The drop, for messages.
        holdout: Whether the drop as a whole is a holdout.

    Raises:
        DataError: Folders named as splits where that could mean several things, or nothing to train on.
    """
    paths = [tuple(folder.split("/")) for folder in folders if folder]
    wrapper = _wrapper(paths)
    below = [path[len(wrapper) :] for path in paths]
    tops = sorted({path[0] for path in below})
    splits = {top: split_of_folder(top) for top in tops}
    named = [top for top in tops if splits[top] is not None]
    at = len(wrapper)
    if named and len(named) == len(tops):
        if not any(len(path) > 1 for path in below):
            raise _ambiguous(location, f"images right in {_some(named)}, which are names of splits")
        if not holdout and TRAIN not in splits.values():
            raise _nothing_to_train(location, named)
        return Layout(class_at=at + 1, split_at=at, reading=f"class folders below {_said(splits, '/'.join(wrapper))}")
    for top in named:
        mine = [path for path in below if path[0] == top]
        # Trains are a class of vehicles; a folder of pictures called test is more often no class than one.
        if splits[top] == HOLDOUT or not any(len(path) == 1 for path in mine):
            others = [name for name in tops if splits[name] is None]
            raise _ambiguous(location, f"{printable(top)}, the name of a split, beside {_some(others)}")
    seconds = {path[1]: split_of_folder(path[1]) for path in below if len(path) > 1}
    if HOLDOUT in seconds.values():
        loose = sorted("/".join(path) for path in below if len(path) == 1 or seconds[path[1]] is None)
        if loose:
            raise _ambiguous(location, f"folders of splits in some classes, and images in {_some(loose)}")
        if not holdout and TRAIN not in seconds.values():
            raise _nothing_to_train(location, sorted(seconds))
        return Layout(class_at=at, split_at=at + 1, reading=f"class folders, in each of them {_said(seconds)}")
    _check_single(below, location)
    return Layout(class_at=at, split_at=-1, reading="class folders: the first folder of a path names the class")


def _wrapper(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """One folder around folders of splits, as archives have it."""
    tops = {path[0] for path in paths}
    if len(tops) != 1 or any(len(path) == 1 for path in paths) or split_of_folder(next(iter(tops))) is not None:
        return ()
    seconds = [split_of_folder(path[1]) for path in paths]
    return (next(iter(tops)),) if None not in seconds and len({path[1] for path in paths}) > 1 else ()


def _check_single(paths: Sequence[tuple[str, ...]], location: str) -> None:
    tops = {path[0] for path in paths}
    seconds = {path[1] for path in paths if len(path) > 1}
    if len(tops) == 1 and len(seconds) > 1 and all(len(path) > 1 for path in paths):
        top = next(iter(tops))
        raise DataError(
            f"drop {location}, folders",
            expected="at least 2 class folders",
            found=f"{printable(top)} alone, and in it {_some(sorted(seconds))}",
            hint=f"If these are the classes, name the folder: --drop {location}/{printable(top)}",
        )


def splits_of_shards(keys: Sequence[str], location: str, *, holdout: bool = False) -> tuple[list[int] | None, str]:
    """The split of each shard by the beginning of its name, else by its folders, and the same as a sentence.

    Where only the holdout is named, the others are trained on.

    Args:
        keys: The shards.
        location: The drop, for messages.
        holdout: Whether the drop as a whole is a holdout.

    Raises:
        DataError: Some shards are named as training and others not at all, or there is nothing to train on.
    """
    found: list[int | None] = []
    for key in keys:
        *folders, name = key.split("/")
        split = split_of_file(name)
        found.append(
            split
            if split is not None
            else next((s for folder in reversed(folders) if (s := split_of_folder(folder)) is not None), None)
        )
    if holdout or all(split is None for split in found):
        return None, ""
    unnamed = [key for key, split in zip(keys, found, strict=True) if split is None]
    if unnamed and TRAIN in found:
        raise _ambiguous(location, f"shards of splits, and beside them {_some(unnamed)}")
    if not unnamed and TRAIN not in found:
        raise _nothing_to_train(location, list(keys))
    held = [key for key, split in zip(keys, found, strict=True) if split == HOLDOUT]
    reading = f"{_some(held)} held out by name" if held else "all of them training data by name"
    return [TRAIN if split is None else split for split in found], reading


def splits_of_keys(
    keys: Sequence[str], labels: Sequence[str | None], location: str, *, holdout: bool = False
) -> list[int] | None:
    """The split of each key of a list by its folders, where the list does not say.

    Args:
        keys: The different folders of the listed files.
        labels: A label of each, for a class may be called like a split.
        location: The drop, for messages.
        holdout: Whether the drop as a whole is a holdout.

    Raises:
        DataError: Some keys are in a folder of the holdout, and others in none of any split.
    """
    found = []
    for key, label in zip(keys, labels, strict=True):
        parts = [part for part in key.split("/") if label_of(part) != label]
        found.append(next((split for part in parts if (split := split_of_folder(part)) is not None), None))
    if holdout or HOLDOUT not in found:
        return None
    if None in found:
        loose = sorted({key for key, split in zip(keys, found, strict=True) if split is None})
        raise _ambiguous(location, f"listed files in folders of splits, and others in {_some(loose)}")
    if TRAIN not in found:
        raise _nothing_to_train(location, sorted(set(keys)))
    return [split for split in found if split is not None]


def _said(splits: dict[str, int | None], where: str = "") -> str:
    train = _some(sorted(name for name, split in splits.items() if split == TRAIN))
    held = _some(sorted(name for name, split in splits.items() if split == HOLDOUT))
    inside = f" in {printable(where)}" if where else ""
    return f"{train} (trained on)" + (f" and {held} (held out)" if held else "") + inside


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, 60) or "the drop itself" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _ambiguous(location: str, found: str) -> DataError:
    return DataError(
        f"drop {location}, layout", expected="splits or classes, and no doubt which", found=found, hint=_RENAME
    )


def _nothing_to_train(location: str, names: Sequence[str]) -> DataError:
    return DataError(
        f"drop {location}, layout",
        expected="a training split",
        found=f"only {_some(names)}, by name held out",
        hint="Add the training split, or name this drop with --holdout.",
    )
