"""Tables as Parquet bytes: the same table gives the same bytes, and a damaged file never reads as another table."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from components.common.contracts.errors import ContractError
from components.common.tables.content import content_digest
from components.common.tables.quoting import quote, schema_difference
from components.common.tables.tables import TableSpec

__all__ = ["ROW_GROUP_ROWS", "decode_table", "encode_table", "metadata_of"]

ROW_GROUP_ROWS = 131_072
"""Rows of a row group."""

_REWRITE = "Run the stage that wrote it again under a new run id."


def encode_table(table: pa.Table, spec: TableSpec, *, config_digest: str, parents: Mapping[str, str]) -> bytes:
    """Writes a table as one Parquet file.

    Equal tables give equal bytes, whatever their chunks and metadata were. Each page carries a checksum; name,
    version, config digest, parents and a digest of the content stand in the file's key-value metadata.

    Args:
        table: Columns with the names, order and types of ``spec``; nullability may be looser.
        spec: The table's contract.
        config_digest: Hex sha256 of the stage's configuration.
        parents: Parent stage name to the sha256 of its manifest.

    Raises:
        ContractError: Other columns or types than the contract's, or a null where it allows none.
    """
    loose = pa.schema([field.with_nullable(True) for field in spec.schema])
    given = pa.schema([field.with_nullable(True) for field in table.schema])
    if not given.equals(loose):
        raise ContractError(
            f"table '{spec.name}' before writing",
            expected=f"the columns of schema version {spec.version}",
            found=schema_difference(given, loose),
            hint="Build the table with the contract's schema: pa.table(columns, schema=spec.schema).",
        )
    try:
        # The cast is what enforces nullable=False: neither pa.table nor a schema alone does.
        exact = table.replace_schema_metadata(None).cast(spec.schema).combine_chunks()
    except ValueError as problem:
        raise ContractError(
            f"table '{spec.name}' before writing",
            expected="no nulls in columns that allow none",
            found=quote(str(problem), 200),
            hint="Fill every row, or allow nulls in the contract.",
        ) from None
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, exact.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(exact, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(
            dict(sorted(metadata_of(content_digest(exact), spec, config_digest, parents).items()))
        )
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def decode_table(data: bytes, spec: TableSpec, *, subject: str) -> pa.Table:
    """Reads a table that ``encode_table`` wrote. Values are not judged here: see ``checks`` and ``gate``.

    Args:
        data: The whole file.
        spec: The contract that the reader relies on.
        subject: Where the bytes came from (a URI), for messages.

    Returns:
        A table with exactly ``spec.schema`` and without metadata.

    Raises:
        ContractError: Not Parquet, a damaged page or footer, another table, another schema version, other columns.
    """
    try:
        # pq.read_table would import pandas, half a second that a reader of tables need not pay.
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        written = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
        schema = file.schema_arrow.remove_metadata()
        _require(subject, "table name", spec.name, written.get("untaint.table"), "Pass the URI of the right table.")
        _require(
            subject,
            f"schema version of table '{spec.name}'",
            str(spec.version),
            written.get("untaint.schema_version"),
            "Read it with the untaint version that wrote it, or run that stage again with this one.",
        )
        if not schema.equals(spec.schema):
            raise ContractError(
                f"table '{spec.name}' in {subject}",
                expected=f"the columns of schema version {spec.version}",
                found=schema_difference(schema, spec.schema),
                hint=_REWRITE,
            )
        table = file.read()
        table.validate(full=True)
        # Parquet calls a list's values "element" where Arrow says "item": the cast gives back the contract's words.
        table = table.replace_schema_metadata(None).cast(spec.schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise ContractError(
            f"table '{spec.name}' in {subject}",
            expected="a whole Parquet file",
            found=f"{len(data)} bytes that do not read: {quote(str(problem), 200)}",
            hint=f"The object is damaged or no table. {_REWRITE}",
        ) from None
    # No page checksum looks at the footer: one flipped bit there can cut rows off, or give one column another's
    # dictionary, and Arrow reads it without a word.
    _require(
        subject,
        f"content digest of table '{spec.name}'",
        content_digest(table),
        written.get("untaint.content_sha256"),
        f"The object is damaged. {_REWRITE}",
    )
    return table


def metadata_of(content: str, spec: TableSpec, config_digest: str, parents: Mapping[str, str]) -> dict[str, str]:
    """The key-value metadata of a table's file; ``content`` is its content digest."""
    return {
        "untaint.config_digest": config_digest,
        "untaint.content_sha256": content,
        "untaint.parents": json.dumps(dict(parents), sort_keys=True, separators=(",", ":")),
        "untaint.schema_version": str(spec.version),
        "untaint.table": spec.name,
    }


def _require(subject: str, what: str, expected: str, found: str | None, hint: str) -> None:
    if found != expected:
        raise ContractError(
            f"{what} in {subject}",
            expected=f"'{expected}'",
            found="no such metadata" if found is None else quote(found),
            hint=hint,
        )
