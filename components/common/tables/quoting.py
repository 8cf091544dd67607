"""Words for messages about hostile data: short, on one line, without control characters."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

__all__ = ["MAX_EXAMPLES", "quote", "rows_found", "schema_difference"]

MAX_EXAMPLES = 5
"""Offending rows that a message names."""

_MAX_CHARACTERS = 80


def quote(value: object, limit: int = _MAX_CHARACTERS) -> str:
    """A value for a message: ``repr``, which escapes control and bidirectional characters, cut to ``limit``."""
    # Cut before repr as well: a value may be megabytes long.
    text = repr(value[:limit] if isinstance(value, str | bytes) else value)
    cut = len(text) > limit or (isinstance(value, str | bytes) and len(value) > limit)
    return f"{text[:limit]}…" if cut else text


def rows_found(column: pa.ChunkedArray, positions: Sequence[int], count: int) -> str:
    """Says how many rows are bad and shows the first few: ``2 bad rows of 50: row 7 = -3, row 9 = -1``.

    Args:
        column: The whole column.
        positions: Positions of bad rows, any number; the first ``MAX_EXAMPLES`` are shown.
        count: How many rows are bad in all.
    """
    shown = [f"row {position} = {quote(column[position].as_py())}" for position in positions[:MAX_EXAMPLES]]
    more = ", …" if shown and count > len(shown) else ""
    examples = f": {', '.join(shown)}{more}" if shown else ""
    return f"{count} bad row{'' if count == 1 else 's'} of {len(column)}{examples}"


def schema_difference(found: pa.Schema, expected: pa.Schema) -> str:
    """Names what differs between two schemas: columns that lack, are too many, have another type or another order."""
    parts: list[str] = []
    missing = [name for name in expected.names if name not in found.names]
    extra = [name for name in found.names if name not in expected.names]
    if missing:
        parts.append(f"no column {', '.join(missing)}")
    if extra:
        listed = ", ".join(quote(name, 40) for name in extra[:MAX_EXAMPLES])
        parts.append(f"{len(extra)} unknown column{'' if len(extra) == 1 else 's'} {listed}")
    for field in expected:
        twins = [other for other in found if other.name == field.name]
        if len(twins) > 1:
            parts.append(f"column {field.name} {len(twins)} times")
        elif twins and not twins[0].equals(field):
            parts.append(f"column {field.name} as {_type_of(twins[0])} instead of {_type_of(field)}")
    return "; ".join(parts) or f"the order {', '.join(found.names)} instead of {', '.join(expected.names)}"


def _type_of(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"
