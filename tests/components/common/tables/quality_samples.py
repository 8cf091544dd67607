"""Small valid tables of every contract, and a way to plant one bad value in them."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from components.common.tables.tables import POISON_TRUTH, SAMPLE_INDEX, TRACES, TableSpec, split_spec

ROWS = 20
SPLIT = split_spec(("loss_rank", "entropy"))
SPECS = (SAMPLE_INDEX, POISON_TRUTH, TRACES, SPLIT)


def _value(name: str, row: int) -> Any:
    fixed = {
        "uri": f"s3://bucket/drop/{row}.png",
        "digest": hashlib.sha256(str(row).encode()).hexdigest(),
        "given_label": row % 10,
        "true_label": row % 10,
        "subset": ("train", "holdout")[row % 2],
        "is_poisoned": row % 5 == 0,
        "assignment": ("clean", "suspect", "poisoned")[row % 3],
        "reasons": ["low loss", "low entropy"][: row % 3],
        "epoch": 1 + row // (ROWS // 2),
    }
    return fixed.get(name, row / (2 * ROWS))


def columns_of(spec: TableSpec) -> dict[str, list[Any]]:
    """Valid values; traces hold two epochs of half the ids."""
    columns = {column.name: [_value(column.name, row) for row in range(ROWS)] for column in spec.columns}
    columns["sample_id"] = [row % (ROWS // 2) if spec is TRACES else row for row in range(ROWS)]
    return columns


def table_of(spec: TableSpec, columns: dict[str, list[Any]] | None = None) -> pa.Table:
    """A table in the contract's schema, without any check of its values."""
    return pa.table(columns or columns_of(spec), schema=spec.schema)


def planted(spec: TableSpec, column: str, row: int, value: Any) -> pa.Table:
    """A valid table but for one value."""
    columns = columns_of(spec)
    columns[column][row] = value
    return table_of(spec, columns)
