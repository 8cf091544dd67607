"""The one rule for what a label is, and the one order of classes: for folders, lists and shards alike."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.contracts.errors import DataError
from components.common.intake.names import controls
from components.common.intake.sources import printable

__all__ = ["IMAGE_COLUMNS", "LABEL_COLUMNS", "MAX_CLASSES", "codes_of", "in_order", "is_label", "label_of", "same_kind"]

MAX_CLASSES = 32_767
"""Most classes: labels are int16."""

IMAGE_COLUMNS = ("image", "img", "pixel_values")
"""Names of columns that are taken for the images', the first one that is there."""

LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class", "category", "cls")
"""Names of columns that are taken for the labels', the first one that is there."""

_MAX_NAME = 200


def label_of(value: Any, names: Sequence[str] | None = None) -> str | None:
    """A label as text, or None if it is none: null, NaN, empty, below zero, too long, or with control characters.

    Text is brought to Unicode's composed form (NFC) and loses the blanks around it, so that a name is one class however
    a system wrote it. Whole numbers that were stored as fractions, as pandas does where one is missing, are whole.

    Args:
        value: A folder's name, or a value of a label column.
        names: Class names that whole numbers stand for; None if they stand for themselves.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value) or not value.is_integer():
            return None
        value = int(value)
    if isinstance(value, int):
        if value < 0 or (names is not None and value >= len(names)):
            return None
        return str(value) if names is None else label_of(names[value])
    text = unicodedata.normalize("NFC", str(value if value is not None else "")).strip()
    if not 0 < len(text) <= _MAX_NAME or controls(text) or (text[0] == "-" and text[1:].isdecimal()):
        return None
    return text


def is_label(kind: pa.DataType) -> bool:
    """Whether a column's type can hold labels."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(number or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)) or (
        types.is_null(kind)
    )


def codes_of(column: pa.Array) -> tuple[list[Any], npt.NDArray[np.int32]]:
    """The different values of a column, null among them as None, and each row's position in that list."""
    if pa.types.is_null(column.type):
        return [None], np.zeros(len(column), np.int32)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(len(values)).to_numpy().astype(np.int32)
    return ([*values, None] if encoded.null_count else values), codes


def in_order(
    texts: Sequence[str | None], codes: npt.NDArray[Any], location: str, declared: Sequence[str] = ()
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Class names in order, and codes that refer to them instead of to ``texts``.

    Only texts that a code refers to become classes. Names that the data declare in an order come in that order if it is
    given, and before all others; the others by number if they are one, then by text.

    Args:
        texts: Labels as ``label_of`` gives them; None where no code refers to.
        codes: int [n], positions in ``texts``.
        location: The drop, for messages.
        declared: Names in the order to keep.

    Raises:
        DataError: Too many classes.
    """
    place = {name: position for position, name in reversed(list(enumerate(declared)))}
    present = {text for position in np.unique(codes).tolist() if (text := texts[position]) is not None}
    used = sorted(present, key=lambda name: (place.get(name, len(place)), *_rank(name)))
    if len(used) > MAX_CLASSES:
        raise DataError(
            f"drop {location}, classes",
            expected=f"at most {MAX_CLASSES}",
            found=str(len(used)),
            hint="The first folder of a key, or the label column, names the class: check the layout.",
        )
    position_of = {name: position for position, name in enumerate(used)}
    places = np.array([position_of.get(text or "", -1) for text in texts] or [0], dtype=np.int32)
    return used, places[codes]


def _rank(name: str) -> tuple[int, int, str]:
    # The text decides between 1, 01 and 001, whatever order a set gives them in.
    number = name.isascii() and name.isdecimal() and len(name) < 19
    return (0, int(name), name) if number else (1, 0, name)


def same_kind(kinds: Iterable[tuple[str, str]], location: str) -> None:
    """Checks that numbers and names are not mixed: where one file lost its class names, its 0 is another's airplane.

    Args:
        kinds: Of each file its name, and ``numbers``, ``names`` or ``""`` if it holds no label.
        location: The drop, for the message.

    Raises:
        DataError: Some hold numbers, and others names.
    """
    first: dict[str, str] = {}
    for key, kind in kinds:
        if kind:
            first.setdefault(kind, key)
    if len(first) > 1:
        raise DataError(
            f"drop {location}, labels",
            expected="class numbers in all files, or class names in all",
            found=f"numbers in {printable(first['numbers'])} and names in {printable(first['names'])}",
            hint="Write the file of numbers again with its class names (the ClassLabel feature of Hugging Face).",
        )
