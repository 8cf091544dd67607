"""What the owner of the data takes away: the suspects with reasons, and the index of what is left."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from components.common.tables.tables import CLEANED_INDEX, FLAGGED, SUSPECTS

__all__ = ["by_suspicion", "cleaned_table", "judged_table", "relative_keys", "suspects_table", "to_csv"]

# What makes Excel, LibreOffice and Google Sheets take a cell for a formula.
_FORMULA = r"^[=+\-@\t\r\n|]"


_NEIGHBOURS = "neighbours"
"""The reason of a holdout row: most of the training rows next to it, of the same label, are suspects."""


def judged_table(
    split: pa.Table, share: npt.NDArray[np.float32], suspect: npt.NDArray[np.bool_], ids: pa.ChunkedArray
) -> pa.Table:
    """The verdict on every row of a run: those of the split, then those of the holdout.

    Args:
        split: The split table.
        share: float32 [m], suspicion of the holdout rows, in [0, 1].
        suspect: bool [m], which of them are suspects.
        ids: int64, sample ids of all rows.

    Returns:
        Columns ``sample_id``, ``assignment``, ``suspicion`` and ``reasons``, as those of the split table.
    """
    assignment = pa.array(np.where(suspect, "suspect", "clean").tolist(), pa.string())
    reasons = pa.array([[_NEIGHBOURS] if one else [] for one in suspect.tolist()], pa.list_(pa.string()))
    return pa.table(
        {
            "sample_id": ids,
            "assignment": pa.chunked_array([*split["assignment"].chunks, assignment]),
            "suspicion": pa.chunked_array([*split["suspicion"].chunks, pa.array(share, pa.float32())]),
            "reasons": pa.chunked_array([*split["reasons"].chunks, reasons]),
        }
    )


def by_suspicion(judged: pa.Table) -> npt.NDArray[np.int64]:
    """Rows that are suspect or poisoned, the most suspect first, equals in the order of the rows.

    Args:
        judged: As from ``judged_table``, or a split table.
    """
    flagged = np.flatnonzero(pc.is_in(judged["assignment"], pa.array(FLAGGED)).to_numpy())
    order: npt.NDArray[np.int64] = flagged[np.argsort(-judged["suspicion"].to_numpy()[flagged], kind="stable")]
    return order


def suspects_table(
    judged: pa.Table,
    index: pa.Table,
    rows: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    class_names: Sequence[str],
    location: str,
) -> pa.Table:
    """The table of suspects, ``contracts.tables.SUSPECTS``.

    Args:
        judged: As from ``judged_table``.
        index: The sample index, of the same rows.
        rows: The suspects, as ``by_suspicion`` gives them.
        predicted: int64 [len(rows)], class that the clean model takes each for.
        class_names: Name of class k at position k.
        location: The drop's address, which keys are made relative to; empty without one.
    """
    names = pa.array(class_names, pa.string())
    chosen, mine = index.take(pa.array(rows)), judged.take(pa.array(rows))
    return pa.table(
        {
            "key": relative_keys(chosen["uri"], location),
            "label": names.take(chosen["given_label"].combine_chunks()),
            "predicted_label": names.take(pa.array(predicted, pa.int64())),
            "suspicion": mine["suspicion"],
            "reasons": mine["reasons"],
            "sample_id": mine["sample_id"],
            "subset": chosen["subset"],
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
