"""What the owner of the data takes away: the suspects with reasons, and the index of what is left."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from components.common.tables.tables import CLEANED_INDEX, SUSPECTS

__all__ = ["by_suspicion", "cleaned_table", "relative_keys", "suspects_table", "to_csv"]

# What makes Excel, LibreOffice and Google Sheets take a cell for a formula.
_FORMULA = r"^[=+\-@\t\r\n|]"


def by_suspicion(split: pa.Table) -> npt.NDArray[np.int64]:
    """Rows of the split table that are not called clean, the most suspect first, equals in the order of the rows."""
    flagged = np.flatnonzero(pc.not_equal(split["assignment"], "clean").to_numpy())
    order: npt.NDArray[np.int64] = flagged[np.argsort(-split["suspicion"].to_numpy()[flagged], kind="stable")]
    return order


def suspects_table(
    split: pa.Table,
    index: pa.Table,
    rows: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    class_names: Sequence[str],
    location: str,
) -> pa.Table:
    """The table of suspects, ``contracts.tables.SUSPECTS``.

    Args:
        split: The split table.
        index: The sample index, whose first rows are those of the split table.
        rows: The suspects, as ``by_suspicion`` gives them.
        predicted: int64 [len(rows)], class that the clean model takes each for.
        class_names: Name of class k at position k.
        location: The drop's address, which keys are made relative to; empty without one.
    """
    names = pa.array(class_names, pa.string())
    chosen, mine = index.take(pa.array(rows)), split.take(pa.array(rows))
    return pa.table(
        {
            "key": relative_keys(chosen["uri"], location),
            "label": names.take(chosen["given_label"].combine_chunks()),
            "predicted_label": names.take(pa.array(predicted, pa.int64())),
            "suspicion": mine["suspicion"],
            "reasons": mine["reasons"],
            "sample_id": mine["sample_id"],
        }
    ).cast(SUSPECTS.schema)


def cleaned_table(
    index: pa.Table, left_out: npt.NDArray[np.int64], class_names: Sequence[str], location: str
) -> pa.Table:
    """The sample index without some rows, ``contracts.tables.CLEANED_INDEX``; of a drop, a list that reads as a drop.

    A trainer that knows nothing of this project needs the key, the label's name and which subset it belongs to. The
    rows of a holdout that is a drop of its own are left out: their keys mean nothing in this one.

    Args:
        index: The sample index.
        left_out: int64, its rows that are suspect, or that nobody has judged.
        class_names: As for ``suspects_table``.
        location: As for ``suspects_table``.
    """
    keep = np.ones(index.num_rows, dtype=bool)
    keep[left_out] = False
    kept = index.filter(pa.array(keep))
    if location:
        kept = kept.filter(pc.starts_with(kept["uri"], f"{location.rstrip('/')}/"))
    names = pa.array(class_names, pa.string())
    return pa.table(
        {
            "key": relative_keys(kept["uri"], location),
            "label": names.take(kept["given_label"].combine_chunks()),
            "subset": kept["subset"],
            "sha256": kept["digest"],
        }
    ).cast(CLEANED_INDEX.schema)


def to_csv(table: pa.Table) -> bytes:
    """A table as CSV, every text quoted; lists are joined with ``; ``.

    A text that a spreadsheet would take for a formula gets an apostrophe before it. The Parquet file has it as it is.
    """
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            column = pc.binary_join(column, "; ")
        if pa.types.is_string(column.type):
            guarded = pc.binary_join_element_wise("'", column, "")
            column = pc.if_else(pc.match_substring_regex(column, _FORMULA), guarded, column)
        columns[name] = column
    sink = io.BytesIO()
    pa.csv.write_csv(pa.table(columns), sink)
    return sink.getvalue()


def relative_keys(uris: pa.ChunkedArray, location: str) -> pa.ChunkedArray:
    """Addresses relative to a drop where they are inside it; as they are where they are not, or without one."""
    if not location:
        return uris
    prefix = f"{location.rstrip('/')}/"
    inside = pc.starts_with(uris, prefix)
    return pc.if_else(inside, pc.utf8_slice_codeunits(uris, len(prefix)), uris)
