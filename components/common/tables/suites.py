"""Great Expectations suites, derived from a table's contract.

The rules of a contract are plain data (``rules_of``), so they cross a process boundary as JSON and the reader of a
result knows which outcomes must be there. Great Expectations is imported inside ``run_rules`` alone: its import takes
two to four seconds.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from components.common.tables.quoting import MAX_EXAMPLES
from components.common.tables.tables import Column, TableSpec

__all__ = ["ROW_COUNT", "Outcome", "Rule", "import_great_expectations", "rules_of", "run_rules", "validated_columns"]

ROW_COUNT = "ExpectTableRowCountToBeBetween"

# Great Expectations keeps the current project in a global: two runs at once in one process mix their data.
_RUN_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One expectation of a suite.

    Attributes:
        expectation: Class name in ``great_expectations.expectations``.
        column: The column it is about; None for the whole table.
        arguments: Further keyword arguments, JSON values only.
    """

    expectation: str
    column: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What Great Expectations said of one rule.

    Attributes:
        expectation: As in the rule.
        column: As in the rule.
        success: Its verdict. A verdict alone is not believed: see ``checks``.
        rows: Rows that it looked at; None if it did not say.
        bad_rows: Rows that break the rule; None if it did not say, or for a rule about the whole table.
        positions: Positions of the first bad rows.
        problem: Message of an exception that was raised inside the expectation.
    """

    expectation: str
    column: str | None
    success: bool
    rows: int | None = None
    bad_rows: int | None = None
    positions: tuple[int, ...] = ()
    problem: str | None = None


def validated_columns(spec: TableSpec) -> list[str]:
    """The columns that Great Expectations sees. Lists are left to Arrow: pandas would hold them as objects."""
    return [column.name for column in spec.columns if not pa.types.is_nested(column.type)]


def rules_of(spec: TableSpec) -> list[Rule]:
    """The rules of a table: a row count, then those of each column in order.

    Uniqueness, order and key equality are not among them: Arrow checks these some 50 times faster.
    """
    bounds = {"min_value": {"$PARAMETER": "fewest_rows"}, "max_value": {"$PARAMETER": "most_rows"}}
    rules = [Rule(expectation=ROW_COUNT, arguments=bounds)]
    for column in spec.columns:
        if not pa.types.is_nested(column.type):
            rules.extend(_rules_of_column(column))
    return rules


def _rules_of_column(column: Column) -> list[Rule]:
    name = column.name
    rules: list[Rule] = []
    if not column.nullable:
        rules.append(Rule(expectation="ExpectColumnValuesToNotBeNull", column=name))
    if column.minimum is not None or column.maximum is not None:
        bounds = {"min_value": column.minimum, "max_value": column.maximum}
        rules.append(Rule(expectation="ExpectColumnValuesToBeBetween", column=name, arguments=bounds))
    if column.one_of is not None:
        members = {"value_set": list(column.one_of)}
        rules.append(Rule(expectation="ExpectColumnValuesToBeInSet", column=name, arguments=members))
    if column.pattern is not None:
        # Without the anchors, "$" lets a value with a line break at its end pass.
        whole = {"regex": rf"\A(?:{column.pattern})\Z"}
        rules.append(Rule(expectation="ExpectColumnValuesToMatchRegex", column=name, arguments=whole))
    return rules


def import_great_expectations() -> Any:
    """Imports Great Expectations without telemetry and without the warnings of what it imports."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations
        import great_expectations.expectations
    return great_expectations


def run_rules(table: pa.Table, rules: Sequence[Rule], *, fewest_rows: int, most_rows: int) -> list[Outcome]:
    """Validates a table once, in this process.

    Args:
        table: The columns that the rules name; no lists.
        rules: As from ``rules_of``.
        fewest_rows: Smallest allowed number of rows, inclusive.
        most_rows: Largest allowed number of rows, inclusive.

    Returns:
        What Great Expectations reported, in its own order. Nothing is judged or completed here.
    """
    gx = import_great_expectations()
    with _RUN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        # An expectation object belongs to one suite for good, so each run builds its own.
        expectations = [_expectation(gx, rule) for rule in rules]
        suite = context.suites.add(gx.ExpectationSuite(name="contract", expectations=expectations))
        asset = context.data_sources.add_pandas("memory").add_dataframe_asset("table")
        batch = asset.add_batch_definition_whole_dataframe("whole")
        definition = gx.ValidationDefinition(name="validation", data=batch, suite=suite)
        report = definition.run(
            batch_parameters={"dataframe": table.to_pandas()},
            expectation_parameters={"fewest_rows": fewest_rows, "most_rows": most_rows},
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": MAX_EXAMPLES},
        )
    return [_outcome(result.to_json_dict()) for result in report.results]


def _expectation(gx: Any, rule: Rule) -> Any:
    column = {} if rule.column is None else {"column": rule.column}
    return getattr(gx.expectations, rule.expectation)(**column, **rule.arguments)


def _outcome(result: Mapping[str, Any]) -> Outcome:
    config = result["expectation_config"]
    figures = result.get("result") or {}
    column = config["kwargs"].get("column")
    count = figures.get("unexpected_count")
    return Outcome(
        expectation="".join(word.capitalize() for word in config["type"].split("_")),
        column=column,
        success=result["success"] is True,
        rows=figures.get("observed_value") if column is None else figures.get("element_count"),
        bad_rows=count,
        positions=tuple(figures.get("partial_unexpected_index_list") or ())[:MAX_EXAMPLES],
        problem=_problem(result.get("exception_info") or {}),
    )


def _problem(info: Mapping[str, Any]) -> str | None:
    """The exception's message. Its record is flat when nothing was raised, and keyed by metric when something was."""
    records = [info] if "raised_exception" in info else [part for part in info.values() if isinstance(part, Mapping)]
    for record in records:
        if record.get("raised_exception"):
            return str(record.get("exception_message") or "an exception without a message")
    return None
