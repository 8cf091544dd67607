"""Every rule of every contract catches what it is for, and no validation run is believed on its word."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.common.contracts.errors import ContractError
from components.common.tables.checks import check_table, judge
from components.common.tables.gate import QualityGate
from components.common.tables.suites import Outcome, rules_of, run_rules, validated_columns
from components.common.tables.tables import POISON_TRUTH, SAMPLE_INDEX, TRACES, Column, TableSpec
from tests.components.common.tables.quality_samples import ROWS, SPECS, SPLIT, columns_of, planted, table_of

NULL, BETWEEN = "ExpectColumnValuesToNotBeNull", "ExpectColumnValuesToBeBetween"
IN_SET, REGEX = "ExpectColumnValuesToBeInSet", "ExpectColumnValuesToMatchRegex"
ROW = 7
BAD_TEXT = {"uri": ["", "s3://b/\x00"], "digest": ["xyz", "A" * 64, "a" * 64 + "\n", "\n" + "a" * 64]}


def plants(spec: TableSpec) -> list[tuple[Column, int, Any, str]]:
    """All the ways to break one value: column, row, bad value, words that the message must hold."""
    found: list[tuple[Column, int, Any, str]] = []
    for column in spec.columns:
        if pa.types.is_list(column.type):
            found += [(column, ROW, None, "no null lists"), (column, ROW, ["a", None], "no null in a list")]
            continue
        found.append((column, ROW, None, NULL))
        if pa.types.is_floating(column.type):
            found += [(column, ROW, bad, "finite numbers") for bad in (math.nan, math.inf, -math.inf)]
        if column.minimum is not None:
            found.append((column, 0, column.minimum - 1, BETWEEN))
        if column.maximum == 1.0:
            found.append((column, ROW, float(np.nextafter(np.float32(1), np.float32(2))), BETWEEN))
        if column.one_of is not None:
            found += [(column, ROW, bad, IN_SET) for bad in ("", "Train", column.one_of[0] + " ")]
        found += [(column, ROW, bad, REGEX) for bad in BAD_TEXT.get(column.name, [])]
    return found


CASES = [
    pytest.param(spec, *plant, id=f"{spec.name}-{plant[0].name}-{plant[3][-12:]}-{str(plant[2])[:9]!r}")
    for spec in SPECS
    for plant in plants(spec)
]


@pytest.fixture(scope="module")
def gate():
    with QualityGate() as gate:
        yield gate


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_table_that_keeps_its_contract_passes(gate, spec):
    ids = pa.array(range(ROWS // 2 if spec is TRACES else ROWS), pa.int64())
    gate.check(table_of(spec), spec, subject="here", rows=ROWS, ids=ids)
    check_table(table_of(spec), spec, subject="here", rows=ROWS, ids=ids)


@pytest.mark.parametrize(("spec", "column", "row", "value", "words"), CASES)
def test_one_bad_value_is_named_with_its_row(gate, spec, column, row, value, words):
    with pytest.raises(ContractError) as caught:
        gate.check(planted(spec, column.name, row, value), spec, subject="s3://b/k")
    message = str(caught.value)
    assert f"table '{spec.name}' in s3://b/k, column '{column.name}'" in message
    assert words in message
    assert f"1 bad row of {ROWS}: row {row} = " in message
    assert message.isprintable()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_expectation_of_a_suite_is_broken_by_some_plant(spec):
    planted_rules = {(words, column.name) for column, _, _, words in plants(spec)}
    rules = {(rule.expectation, rule.column) for rule in rules_of(spec) if rule.column is not None}
    assert rules <= planted_rules


def test_both_ways_to_run_say_the_same(gate):
    table = planted(SAMPLE_INDEX, "subset", ROW, "test")
    with pytest.raises(ContractError) as here:
        check_table(table, SAMPLE_INDEX, subject="s3://b/k")
    with pytest.raises(ContractError) as there:
        gate.check(table, SAMPLE_INDEX, subject="s3://b/k")
    assert str(here.value) == str(there.value)
    assert "row 7 = 'test'" in str(here.value)


def test_all_broken_rules_are_named_and_examples_are_few_and_short(gate):
    columns = columns_of(SAMPLE_INDEX)
    columns["digest"] = ["\x1b[2J" + "x" * 1_000_000] * ROWS
    columns["subset"][3] = "\u202etest"
    with pytest.raises(ContractError) as caught:
        gate.check(table_of(SAMPLE_INDEX, columns), SAMPLE_INDEX, subject="here")
    message = str(caught.value)
    assert f"{ROWS} bad rows of {ROWS}: row 0 = '\\x1b[2Jxxx" in message
    assert "row 4" in message
    assert "row 5" not in message
    assert "Also broken: column 'subset'" in message
    assert len(message) < 1_500
    assert message.isprintable()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_an_empty_table_is_refused(gate, spec):
    with pytest.raises(ContractError, match=r"row count: expected at least 1 rows .*; found 0 rows"):
        gate.check(table_of(spec).slice(0, 0), spec, subject="here")


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_another_row_count_is_refused(gate, rows):
    with pytest.raises(ContractError, match=f"row count: expected {rows} rows .*; found {ROWS} rows"):
        gate.check(table_of(SAMPLE_INDEX), SAMPLE_INDEX, subject="here", rows=rows)


def test_a_row_count_below_the_contracts_own_is_a_mistake_of_the_caller(gate):
    with pytest.raises(ValueError, match="rows must be at least 1"):
        gate.check(table_of(SAMPLE_INDEX), SAMPLE_INDEX, subject="here", rows=0)


@pytest.mark.parametrize("spec", [SAMPLE_INDEX, POISON_TRUTH, SPLIT], ids=lambda spec: spec.name)
@pytest.mark.parametrize("other", [ROW - 1, ROW - 2], ids=["duplicate", "backwards"])
def test_ids_that_do_not_increase_are_refused(gate, spec, other):
    with pytest.raises(ContractError, match=f"'sample_id': expected strictly increasing.* row {ROW} = {other}"):
        gate.check(planted(spec, "sample_id", ROW, other), spec, subject="here")


@pytest.mark.parametrize("boundary", [1, ROW, ROWS - 1])
def test_order_is_checked_across_chunks(gate, boundary):
    table = planted(SAMPLE_INDEX, "sample_id", boundary, boundary - 1)
    chunked = pa.concat_tables([table.slice(0, boundary), table.slice(boundary)])
    with pytest.raises(ContractError, match=f"row {boundary} = {boundary - 1}"):
        gate.check(chunked, SAMPLE_INDEX, subject="here")


@pytest.mark.parametrize(("column", "value"), [("sample_id", 5), ("epoch", 2)])
def test_traces_out_of_epoch_and_sample_order_are_refused(gate, column, value):
    with pytest.raises(ContractError, match=r"strictly increasing by \(epoch, sample_id\); found 1 bad row"):
        gate.check(planted(TRACES, column, ROW, value), TRACES, subject="here")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (pa.array([*range(19), 20], pa.int64()), "1 bad row of 20: row 19 = 19"),
        (pa.array(range(1, 21), pa.int64()), "20 bad rows of 20: row 0 = 0"),
        (pa.array(range(19), pa.int64()), "the parent's 19 ids in the same order; found 20 rows"),
        (pa.array([*range(19), None], pa.int64()), "1 bad row of 20: row 19 = 19"),
        (pa.array(range(20), pa.int32()), "expected a parent column of int64; found int32"),
        (pa.array([], pa.int64()), "found 20 rows"),
    ],
)
def test_ids_other_than_the_parents_are_refused(gate, ids, words):
    with pytest.raises(ContractError, match="'sample_id'") as caught:
        gate.check(table_of(SPLIT), SPLIT, subject="here", ids=ids)
    assert words in str(caught.value)


@pytest.mark.parametrize("count", [9, 11, 20])
def test_traces_hold_whole_repetitions_of_the_parents_ids(gate, count):
    with pytest.raises(ContractError, match="'sample_id'"):
        gate.check(table_of(TRACES), TRACES, subject="here", ids=pa.array(range(count), pa.int64()))


def test_another_schema_is_refused(gate):
    table = table_of(SPLIT)
    cases = {
        "no column reasons": table.drop_columns(["reasons"]),
        "1 unknown column 'extra'": table.append_column("extra", table["suspicion"]),
        "column sample_id as int32 not null instead": table.set_column(
            0, pa.field("sample_id", pa.int32(), nullable=False), table["sample_id"].cast(pa.int32())
        ),
        "the order": table.select(table.column_names[::-1]),
        "column suspicion as float instead of float not null": table.set_column(2, "suspicion", table["suspicion"]),
    }
    for words, wrong in cases.items():
        with pytest.raises(ContractError, match="expected schema version 1") as caught:
            gate.check(wrong, SPLIT, subject="here")
        assert words in str(caught.value)


def test_text_that_is_not_utf8_is_refused(gate):
    table = table_of(SAMPLE_INDEX)
    raw = pa.array([b"\xff\xfe"] * ROWS, pa.binary())
    text = pa.Array.from_buffers(pa.string(), ROWS, raw.buffers())
    with pytest.raises(ContractError, match="valid Arrow data"):
        gate.check(table.set_column(1, table.schema.field("uri"), text), SAMPLE_INDEX, subject="here")


def test_ids_for_a_table_without_keys_are_a_mistake_of_the_caller(gate):
    spec = TableSpec(name="names", version=1, columns=(Column(name="label", type=pa.string()),))
    with pytest.raises(ValueError, match="no column sample_id"):
        gate.check(pa.table({"label": ["a"]}, schema=spec.schema), spec, subject="here", ids=pa.array([0]))


def test_nulls_pass_where_the_contract_allows_them_and_other_rules_still_hold(gate):
    column = Column(name="note", type=pa.string(), nullable=True, pattern="[a-z]+")
    spec = TableSpec(name="notes", version=1, columns=(column,))
    gate.check(pa.table({"note": ["a", None]}, schema=spec.schema), spec, subject="here")
    with pytest.raises(ContractError, match="row 2 = 'B'"):
        gate.check(pa.table({"note": ["a", None, "B"]}, schema=spec.schema), spec, subject="here")


@pytest.mark.parametrize("in_process", [True, False])
def test_an_expectation_that_raises_is_reported(gate, in_process):
    broken = Column(name="label", type=pa.string(), pattern="(")
    spec = TableSpec(name="names", version=1, columns=(broken,))
    check = check_table if in_process else gate.check
    with pytest.raises(ContractError, match=f"column 'label': expected {REGEX}.* could not be evaluated: "):
        check(pa.table({"label": ["a", "b"]}, schema=spec.schema), spec, subject="here")


def test_a_validation_run_that_raises_is_reported(gate):
    # A bound that is no number: this expectation cannot even be built, so the whole run stops.
    spec = TableSpec(name="numbers", version=1, columns=(Column(name="n", type=pa.int64(), minimum="low"),))
    with pytest.raises(ContractError, match=r"in here: expected a validation of every rule; found that the .* stopped"):
        gate.check(pa.table({"n": [1]}, schema=spec.schema), spec, subject="here")


def outcomes_of(table: pa.Table) -> list[Outcome]:
    return run_rules(
        table.select(validated_columns(POISON_TRUTH)), rules_of(POISON_TRUTH), fewest_rows=ROWS, most_rows=ROWS
    )


@pytest.fixture(scope="module")
def outcomes():
    return outcomes_of(table_of(POISON_TRUTH))


def judged(outcomes: list[Outcome]) -> None:
    table = table_of(POISON_TRUTH)
    judge(outcomes, rules_of(POISON_TRUTH), table, POISON_TRUTH, subject="here", fewest=ROWS, most=ROWS)


@pytest.mark.parametrize("index", range(len(rules_of(POISON_TRUTH))))
def test_a_run_is_believed_only_with_every_outcome_over_every_row(outcomes, index):
    judged(outcomes)
    judged(outcomes[::-1])
    rest, one = outcomes[:index] + outcomes[index + 1 :], outcomes[index]
    for doctored, words in [
        (rest, "0 outcomes of this rule"),
        ([*outcomes, one], "2 outcomes of this rule"),
        ([*rest, replace(one, rows=ROWS - 1)], f"a validation of {ROWS - 1} rows instead of {ROWS}"),
        ([*rest, replace(one, rows=None)], "a validation of None rows"),
        ([*rest, replace(one, problem="no such metric")], "could not be evaluated: 'no such metric'"),
        ([*rest, replace(one, success=False, bad_rows=None)], "without a reason|no count"),
    ]:
        with pytest.raises(ContractError, match=words):
            judged(doctored)


def test_bad_rows_are_believed_over_a_verdict(outcomes):
    index = next(i for i, one in enumerate(outcomes) if one.column is not None)
    outcomes = [*outcomes[:index], replace(outcomes[index], bad_rows=1), *outcomes[index + 1 :]]
    with pytest.raises(ContractError, match="1 bad row"):
        judged(outcomes)


def test_no_suite_holds_an_expectation_that_costs_seconds():
    for spec in SPECS:
        assert {rule.expectation for rule in rules_of(spec)[1:]} <= {NULL, BETWEEN, IN_SET, REGEX}
        assert all(len(rule.arguments.get("value_set", ())) <= 10 for rule in rules_of(spec))


@pytest.mark.parametrize(
    "rule", [{"minimum": 0}, {"maximum": 1}, {"increasing": True}, {"type": pa.int8(), "pattern": "a"}], ids=str
)
def test_a_rule_that_a_type_cannot_keep_is_refused(rule):
    with pytest.raises(ValueError, match="column x"):
        Column(**{"name": "x", "type": pa.string(), **rule})
