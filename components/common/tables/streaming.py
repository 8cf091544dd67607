"""A table that does not fit into memory, as the very Parquet file that ``parquet.encode_table`` would make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from components.common.contracts.errors import ContractError
from components.common.tables.content import content_digest_of_parts
from components.common.tables.gate import PendingCheck
from components.common.tables.parquet import ROW_GROUP_ROWS, metadata_of
from components.common.tables.tables import TableSpec

__all__ = ["write_parts"]


def write_parts(
    path: Path,
    parts: Iterable[pa.Table],
    spec: TableSpec,
    *,
    config_digest: str,
    parents: Mapping[str, str],
    check: Callable[[pa.Table], PendingCheck],
) -> int:
    """Checks and writes a table part by part; memory holds two parts.

    The parts go to a draft on disk first: the digest of the content, which the file carries, is taken column by
    column.

    Args:
        path: The Parquet file.
        parts: The table in parts, each but the last of a multiple of ``ROW_GROUP_ROWS`` rows.
        spec: The table's contract: booleans, numbers and strings without nulls.
        config_digest: As for ``encode_table``.
        parents: As for ``encode_table``.
        check: Starts the check of one part against the contract.

    Returns:
        The number of rows.

    Raises:
        ContractError: A part breaks the contract, or does not go on where the part before it ended.
    """
    draft = path.with_suffix(".arrow")
    pending: PendingCheck | None = None
    rows = 0
    try:
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, spec.schema) as writer:
            last: dict[str, float] = {}
            for part in parts:
                exact = part.cast(spec.schema).combine_chunks()
                _check_order(exact, spec, last, path)
                # One check at a time runs beside the work on the next part.
                if pending is not None:
                    pending.result()
                pending = check(exact)
                for batch in exact.to_batches(max_chunksize=ROW_GROUP_ROWS):
                    writer.write_batch(batch)
                rows += exact.num_rows
        if pending is not None:
            pending.result()
        content = content_digest_of_parts(
            spec.schema, lambda position: (batch.column(0) for batch in _batches(draft, position))
        )
        _write_parquet(path, draft, spec, metadata_of(content, spec, config_digest, parents))
    finally:
        draft.unlink(missing_ok=True)
    return rows


def _check_order(part: pa.Table, spec: TableSpec, last: dict[str, float], path: Path) -> None:
    for column in spec.columns:
        if not column.increasing or part.num_rows == 0:
            continue
        first = part[column.name][0].as_py()
        if column.name in last and first <= last[column.name]:
            raise ContractError(
                f"table '{spec.name}' in {path.name}, column '{column.name}'",
                expected=f"a value above {last[column.name]} in the next part",
                found=str(first),
                hint="This is a defect of the stage that makes the table.",
            )
        last[column.name] = part[column.name][-1].as_py()


def _write_parquet(path: Path, draft: Path, spec: TableSpec, metadata: Mapping[str, str]) -> None:
    with pq.ParquetWriter(path, spec.schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in _batches(draft):
            writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(dict(sorted(metadata.items())))


def _batches(draft: Path, column: int | None = None) -> Iterator[pa.RecordBatch]:
    chosen = pa.ipc.IpcReadOptions(included_fields=None if column is None else [column], use_threads=False)
    # Read, not mapped: pages of a mapping would count as this process's memory.
    with pa.OSFile(str(draft)) as source, pa.ipc.open_file(source, options=chosen) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
