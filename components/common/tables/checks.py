"""Is this table what its contract says? Arrow first for what it does in milliseconds, then one validation run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.common.contracts.errors import ContractError
from components.common.tables.quoting import MAX_EXAMPLES, quote, rows_found, schema_difference
from components.common.tables.suites import ROW_COUNT, Outcome, Rule, rules_of, run_rules, validated_columns
from components.common.tables.tables import Column, TableSpec

__all__ = ["KEY", "Runner", "check_arrow", "check_origin", "check_table", "judge", "validate"]

KEY = "sample_id"
"""The column that ties every table to the sample index."""

Runner = Callable[[pa.Table, Sequence[Rule], int, int], Sequence[Outcome]]
"""``(table, rules, fewest_rows, most_rows) -> outcomes``: a validation run, here or in another process."""

_NO_LIMIT = 2**62
_REWRITE = "Run the stage that wrote it again; if its input is at fault, correct that first."


def check_table(
    table: pa.Table,
    spec: TableSpec,
    *,
    subject: str,
    rows: int | None = None,
    ids: pa.ChunkedArray | pa.Array | None = None,
) -> None:
    """Checks a table against its contract, in this process. It imports Great Expectations: 2 to 4 s the first time.

    Args:
        table: The table; its schema must equal ``spec.schema``, nullability included.
        spec: The contract.
        subject: Where the table came from (a URI), for messages.
        rows: The exact number of rows, if known; else at least ``spec.min_rows``.
        ids: The ``sample_id`` column of the parent table (int64). The table must hold the same ids in the same order;
            where the ids of a table are not increasing (traces), whole repetitions of it.

    Raises:
        ContractError: A rule is broken, or could not be evaluated. The message names table, column, rule, number of
            bad rows and the first of them.
        ValueError: ``rows`` is below ``spec.min_rows``, or ``ids`` is given for a table without ``sample_id``.
    """
    validate(table, spec, subject=subject, rows=rows, ids=ids, runner=_run_here)


def validate(
    table: pa.Table,
    spec: TableSpec,
    *,
    subject: str,
    rows: int | None,
    ids: pa.ChunkedArray | pa.Array | None,
    runner: Runner,
) -> None:
    """``check_table`` with a choice of where the validation runs. Arguments and errors are the same."""
    if rows is not None and rows < spec.min_rows:
        raise ValueError(f"rows must be at least {spec.min_rows} for table '{spec.name}', got {rows}")
    check_arrow(table, spec, subject=subject, ids=ids)
    fewest, most = (spec.min_rows, _NO_LIMIT) if rows is None else (rows, rows)
    rules = rules_of(spec)
    outcomes = runner(table.select(validated_columns(spec)), rules, fewest, most)
    judge(outcomes, rules, table, spec, subject=subject, fewest=fewest, most=most)


def _run_here(table: pa.Table, rules: Sequence[Rule], fewest: int, most: int) -> Sequence[Outcome]:
    return run_rules(table, rules, fewest_rows=fewest, most_rows=most)


def check_arrow(
    table: pa.Table,
    spec: TableSpec,
    *,
    subject: str,
    ids: pa.ChunkedArray | pa.Array | None = None,
) -> None:
    """The checks that Arrow does: schema, encoding, finite floats, nulls in lists, order, keys.

    Finite floats matter here because Great Expectations' "between" lets NaN pass.

    Raises:
        ContractError: As ``check_table``.
        ValueError: ``ids`` is given for a table without ``sample_id``.
    """
    if ids is not None and KEY not in spec.schema.names:
        raise ValueError(f"table '{spec.name}' has no column {KEY} to compare ids with")
    where = f"table '{spec.name}' in {subject}"
    if not table.schema.equals(spec.schema):
        found = schema_difference(table.schema, spec.schema)
        raise ContractError(where, expected=f"schema version {spec.version}", found=found, hint=_REWRITE)
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as problem:
        raise ContractError(
            where, expected="valid Arrow data (UTF-8 text)", found=quote(str(problem), 200), hint=_REWRITE
        ) from None
    for column in spec.columns:
        for expected, bad in _arrow_masks(table[column.name], column):
            _refuse_rows(where, column.name, expected, table[column.name], bad)
    if spec.order_by:
        names = ", ".join(spec.order_by)
        bad = _not_increasing([table[name] for name in spec.order_by])
        _refuse_rows(where, spec.order_by[-1], f"rows strictly increasing by ({names})", table[spec.order_by[-1]], bad)
    if ids is not None:
        _check_keys(where, table[KEY], ids, repeats=not spec.column(KEY).increasing)


def check_origin(
    table: pa.Table,
    spec: TableSpec,
    *,
    subject: str,
    rows: int | None,
    ids: pa.ChunkedArray | pa.Array | None,
) -> None:
    """What a reader of a published table checks: that it has the rows that were published, of the samples it asks for.

    Its values were checked when it was written. Arguments as for ``check_table``.

    Raises:
        ContractError: Another number of rows, or other samples.
        ValueError: ``ids`` is given for a table without ``sample_id``.
    """
    where = f"table '{spec.name}' in {subject}"
    if rows is not None and table.num_rows != rows:
        raise ContractError(where, expected=f"{rows} rows", found=f"{table.num_rows}", hint=_REWRITE)
    if ids is not None:
        if KEY not in spec.schema.names:
            raise ValueError(f"table '{spec.name}' has no column {KEY} to compare ids with")
        _check_keys(where, table[KEY], ids, repeats=not spec.column(KEY).increasing)


def _arrow_masks(values: pa.ChunkedArray, column: Column) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Pairs of a rule's words and a mask that is true where a row breaks it."""
    if pa.types.is_floating(column.type):
        yield "finite numbers", pc.invert(pc.fill_null(pc.is_finite(values), True))
    if column.increasing:
        yield "strictly increasing values", _not_increasing([values])
    if pa.types.is_list(column.type):
        if not column.nullable:
            yield "no null lists", pc.is_null(values)
        # Parent positions count from the start of a chunk: one chunk makes them row positions.
        whole = values.combine_chunks()
        holders = pc.filter(pc.list_parent_indices(whole), pc.is_null(pc.list_flatten(whole)))
        yield "no null in a list", pc.is_in(pa.array(np.arange(len(whole)), holders.type), holders)


def _not_increasing(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Mask of the rows that do not come strictly after the row before them, in lexicographic order.

    Nulls are left to the rule that forbids them.
    """
    rows = len(columns[0])
    first = pa.array(np.zeros(min(rows, 1), dtype=np.bool_))
    if rows < 2:
        return pa.chunked_array([first], pa.bool_())
    after = pa.chunked_array([pa.array(np.zeros(rows - 1, dtype=np.bool_))])
    for column in reversed(columns):
        previous, this = column.slice(0, rows - 1), column.slice(1)
        after = pc.or_kleene(pc.greater(this, previous), pc.and_kleene(pc.equal(this, previous), after))
    bad = pc.invert(pc.fill_null(after, True))
    return pa.chunked_array([first, *bad.chunks], pa.bool_())


def _refuse_rows(where: str, column: str, expected: str, values: pa.ChunkedArray, bad: pa.ChunkedArray) -> None:
    count = pc.sum(bad).as_py() or 0
    if count:
        positions = pc.indices_nonzero(bad).slice(0, MAX_EXAMPLES).to_pylist()
        raise ContractError(
            f"{where}, column '{column}'",
            expected=expected,
            found=rows_found(values, positions, count),
            hint=_REWRITE,
        )


def _check_keys(where: str, keys: pa.ChunkedArray, ids: pa.ChunkedArray | pa.Array, *, repeats: bool) -> None:
    subject = f"{where}, column '{KEY}'"
    expected = f"the parent's {len(ids)} ids in the same order"
    hint = "Both must come from one run: pass the manifests of the same run id."
    parent = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids])
    if parent.type != keys.type:
        raise ContractError(subject, expected=f"a parent column of {keys.type}", found=str(parent.type), hint=hint)
    times = len(keys) // len(parent) if repeats and len(parent) else 1
    if times != 1:
        expected = f"whole repetitions of {expected}"
        parent = pa.chunked_array(parent.chunks * times, type=parent.type)
    if len(parent) != len(keys):
        raise ContractError(subject, expected=expected, found=f"{len(keys)} rows", hint=hint)
    if not keys.equals(parent):
        # An unequal pair may hold a null, for which "not equal" is null.
        bad = pc.fill_null(pc.not_equal(keys, parent), True)
        positions = pc.indices_nonzero(bad).slice(0, MAX_EXAMPLES).to_pylist()
        found = rows_found(keys, positions, pc.sum(bad).as_py())
        raise ContractError(subject, expected=expected, found=found, hint=hint)


def judge(
    outcomes: Sequence[Outcome],
    rules: Sequence[Rule],
    table: pa.Table,
    spec: TableSpec,
    *,
    subject: str,
    fewest: int,
    most: int,
) -> None:
    """Believes a validation run only if every rule has one outcome, over all rows, without an exception.

    Args:
        outcomes: What the run reported, in any order.
        rules: What it was asked.
        table: What it was asked about.
        spec: The table's contract.
        subject: Where the table came from.
        fewest: Smallest allowed number of rows.
        most: Largest allowed number of rows.

    Raises:
        ContractError: A rule is broken, raised, or has no usable outcome. The first is told in full, the others named.
    """
    breaches: list[tuple[str, str, str]] = []
    for rule in rules:
        matching = [o for o in outcomes if (o.expectation, o.column) == (rule.expectation, rule.column)]
        found = _breach(rule, matching, table, fewest, most)
        if found is not None:
            breaches.append((_place(rule), _words(rule, fewest, most), found))
    if not breaches:
        return
    place, expected, found = breaches[0]
    if len(breaches) > 1:
        others = "; ".join(f"{where}: {words}" for where, words, _ in breaches[1 : 1 + MAX_EXAMPLES])
        found = f"{found}. Also broken: {others}{'; …' if len(breaches) > 1 + MAX_EXAMPLES else ''}"
    raise ContractError(f"table '{spec.name}' in {subject}, {place}", expected=expected, found=found, hint=_REWRITE)


def _breach(rule: Rule, matching: Sequence[Outcome], table: pa.Table, fewest: int, most: int) -> str | None:
    if len(matching) != 1:
        return f"{len(matching)} outcomes of this rule in the validation run"
    outcome = matching[0]
    if outcome.problem is not None:
        return f"that the rule could not be evaluated: {quote(outcome.problem, 200)}"
    if rule.expectation == ROW_COUNT and not fewest <= table.num_rows <= most:
        return f"{table.num_rows} rows"
    if outcome.rows != table.num_rows:
        return f"a validation of {outcome.rows} rows instead of {table.num_rows}"
    if rule.column is not None and (not outcome.success or outcome.bad_rows != 0):
        positions = [p for p in outcome.positions if isinstance(p, int) and 0 <= p < table.num_rows]
        if outcome.bad_rows is None:
            return "no count of bad rows in the validation run"
        return rows_found(table[rule.column], positions, outcome.bad_rows)
    return None if outcome.success else "that the validation run refused it without a reason"


def _place(rule: Rule) -> str:
    return "row count" if rule.column is None else f"column '{rule.column}'"


def _words(rule: Rule, fewest: int, most: int) -> str:
    if rule.expectation == ROW_COUNT:
        bounds = f"{fewest}" if fewest == most else f"at least {fewest}"
        return f"{bounds} rows ({rule.expectation})"
    arguments = ", ".join(f"{name} {value}" for name, value in rule.arguments.items() if value is not None)
    return f"{rule.expectation}{f' with {arguments}' if arguments else ''}"
