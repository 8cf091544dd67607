"""What a check of a drop shows: how it is read, its classes, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from components.common.intake.drop import Rejected, Survey
from components.common.intake.sources import printable
from components.common.tables.tables import PASSED_REASONS, REJECT_REASONS
from pipelines.views.summary import table

__all__ = ["survey_lines"]

_CLASSES = 1_000
_NAMED = 20


def survey_lines(address: str, survey: Survey) -> Iterator[str]:
    """What a drop holds, line by line.

    Args:
        address: The drop, as the user named it.
        survey: What was found.
    """
    passed = survey.passed.counts.total()
    yield f"{address}: {survey.rows_seen} samples, {survey.rejected_rows} rejected; {passed} files passed over"
    for word, reading in zip(("read as", "holdout read as"), survey.reading, strict=False):
        yield f"{word} {printable(reading, 2_000)}"
    rows = [
        (printable(one.name, 60), str(one.train), str(one.holdout), str(one.rejected), str(one.passed))
        for one in survey.classes[:_CLASSES]
    ]
    yield from table(("class", "training", "holdout", "rejected", "passed over"), rows)
    if len(survey.classes) > _CLASSES:
        yield f"… and {len(survey.classes) - _CLASSES} classes more"
    counts = Counter(entry.reason for entry in survey.rejected)
    yield from _left_out("rejected", counts, survey.rejected, REJECT_REASONS)
    yield from _left_out("passed over", survey.passed.counts, survey.passed.named, PASSED_REASONS)
    if survey.drop is not None:
        found = survey.drop
        size = "x".join(map(str, found.shape))
        yield (
            f"usable: {found.n_train} training and {len(found.labels) - found.n_train} holdout images of {size}, "
            f"{len(found.class_names)} classes"
        )


def _left_out(
    word: str, counts: Mapping[str, int], entries: Sequence[Rejected], meanings: Mapping[str, str]
) -> Iterator[str]:
    present = [reason for reason in sorted(counts, key=lambda name: (-counts[name], name)) if counts[reason]]
    if present:
        yield f"{word}:"
    for reason in present:
        yield f"  {counts[reason]:>8}  {reason:<16} {meanings[reason]}"
        mine = [entry for entry in entries if entry.reason == reason][:_NAMED]
        for entry in mine:
            yield f"            {entry.key}: {entry.detail}"
        if counts[reason] > len(mine):
            yield f"            … and {counts[reason] - len(mine)} more"
