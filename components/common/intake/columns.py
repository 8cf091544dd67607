"""Which columns of people's tables hold images, labels and splits, and the class names that their metadata declare."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from components.common.contracts.errors import DataError
from components.common.intake.labels import IMAGE_COLUMNS, LABEL_COLUMNS, MAX_CLASSES, is_label, label_of

__all__ = [
    "SPLIT_COLUMNS",
    "ColumnNames",
    "Columns",
    "class_names",
    "is_text",
    "label_column",
    "shard_columns",
    "short",
]

SPLIT_COLUMNS = ("subset", "split")
"""Names of the column that says which split a row belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnNames:
    """The columns that the user names; an empty name is guessed."""

    image: str = ""
    label: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The columns of a shard.

    Attributes:
        image: Path of the encoded images, ``image.bytes`` or ``image``.
        label: The labels' column.
        split: The splits' column; empty if there is none.
        others: Further columns that labels could have been meant by.
    """

    image: str
    label: str
    split: str
    others: tuple[str, ...]


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, or nothing at all."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)) or (
        pa.types.is_null(kind)
    )


def shard_columns(schema: pa.Schema, names: ColumnNames, subject: str) -> Columns:
    """Finds the columns of a shard.

    Args:
        schema: The shard's.
        names: What the user names.
        subject: The shard, for messages.

    Raises:
        DataError: A column is missing, of another type, or there twice.
    """
    split = next((name for name in SPLIT_COLUMNS if name in schema.names), "")
    if split and (schema.names.count(split) != 1 or not is_text(schema.field(split).type)):
        raise DataError(
            f"{subject}, columns",
            expected=f"one column '{split}' of text",
            found=_seen(schema, split),
            hint="Rename the column, or write train and holdout into it.",
        )
    label = label_column(schema, names.label, subject)
    others = tuple(name for name in LABEL_COLUMNS if name in schema.names and name != label)
    return Columns(image=_image_path(schema, names.image, subject), label=label, split=split, others=others)


def label_column(schema: pa.Schema, given: str, subject: str) -> str:
    """The labels' column: the one that is named, else the first of ``LABEL_COLUMNS`` that is there.

    Raises:
        DataError: There is none, or it is of another type, or there twice.
    """
    name = next((name for name in ((given,) if given else LABEL_COLUMNS) if name in schema.names), "")
    if name and schema.names.count(name) == 1 and is_label(schema.field(name).type):
        return name
    raise DataError(
        f"{subject}, columns",
        expected=f"one column '{given or 'label'}' of numbers or text",
        found=_seen(schema, name) if name else f"the columns {short(schema.names)}",
        hint="Name the column with --label-column.",
    )


def _image_path(schema: pa.Schema, given: str, subject: str) -> str:
    name = next((name for name in ((given,) if given else IMAGE_COLUMNS) if name in schema.names), "")
    # A second column by that name or path would be read with it.
    if name and schema.names.count(name) == 1 and f"{name}.bytes" not in schema.names:
        kind = schema.field(name).type
        if _is_bytes(kind):
            return name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
            return f"{name}.bytes"
    raise DataError(
        f"{subject}, columns",
        expected=f"one column '{given or 'image'}' of encoded images: struct<bytes: binary, path: string>, or binary",
        found=_seen(schema, name) if name else f"the columns {short(schema.names)}",
        hint="Name the column with --image-column; pixels as numbers must be encoded (PNG, JPEG) first.",
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _seen(schema: pa.Schema, name: str) -> str:
    if schema.names.count(name) > 1 or f"{name}.bytes" in schema.names:
        return f"several columns '{name}' or '{name}.bytes'"
    return f"'{name}' of type {short(str(schema.field(name).type))}"


def class_names(schema: pa.Schema, label: str, subject: str) -> tuple[str, ...] | None:
    """The class names that the schema's ``huggingface`` metadata declare for a column; None if they declare none.

    Raises:
        DataError: The metadata are damaged, or the names cannot be used.
    """
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    try:
        described = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise DataError(
            f"{subject}, metadata 'huggingface'",
            expected="the JSON description of the features that Hugging Face datasets writes",
            found=f"{type(problem).__name__}: {str(problem)[:200]}",
            hint="Write the file again, or without that metadata.",
        ) from problem
    for step in ("info", "features", label):
        described = described.get(step) if isinstance(described, dict) else None
    # Metadata of another column, or of another program, say nothing about this one.
    if not isinstance(described, dict) or described.get("_type") != "ClassLabel" or described.get("names") is None:
        return None
    names = described["names"]
    texts = [label_of(name) if isinstance(name, str) else None for name in names] if isinstance(names, list) else []
    if None in texts or len(set(texts)) != len(texts) or not 1 <= len(texts) <= MAX_CLASSES:
        raise DataError(
            f"{subject}, class names",
            expected=f"1 to {MAX_CLASSES} different names of at most 200 characters, without control characters",
            found=short(names),
            hint="Correct the names of the ClassLabel feature.",
        )
    return tuple(text for text in texts if text is not None)


def short(value: object) -> str:
    """A value as a message shows it."""
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 200 else f"{text[:200]}…"
