"""The cron of Kubeflow Pipelines: SIX fields, seconds first. Five are taken by the server too, and mean other times."""

from __future__ import annotations

import re

from components.common.contracts.errors import ConfigError

__all__ = ["check_cron"]

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("a second", 0, 59, ()),
    ("a minute", 0, 59, ()),
    ("an hour", 0, 23, ()),
    ("a day of month", 1, 31, ()),
    ("a month", 1, 12, _MONTHS),
    ("a day of week", 0, 6, _DAYS),
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TERM = re.compile(r"(\*|\?|(?P<low>\w+)(-(?P<high>\w+))?)(/(?P<step>\d+))?")


def check_cron(cron: str) -> str:
    """A cron expression as Kubeflow Pipelines takes it, with single spaces.

    Args:
        cron: second, minute, hour, day of month, month and day of week: ``0 0 3 * * *`` is every day at 3:00 UTC.

    Raises:
        ConfigError: Another number of fields, a value out of range, a schedule of more than once a minute, or days that
            no month has.
    """
    fields = cron.split()
    if len(fields) == 5:
        raise _wrong(cron, "six fields, seconds first", "five", f'Put the second in front: "0 {" ".join(fields)}".')
    if len(fields) != 6:
        raise _wrong(cron, "six fields, seconds first", str(len(fields)), 'Every day at 3:00 UTC is "0 0 3 * * *".')
    values = [_values(cron, text, *about) for text, about in zip(fields, _FIELDS, strict=True)]
    if len(values[0]) != 1:
        raise _wrong(
            cron,
            "one second of the minute",
            f"'{fields[0]}', several runs a minute",
            "Begin with 0 for the full minute.",
        )
    if min(values[3]) > max(_LONGEST[month - 1] for month in values[4]):
        raise _wrong(
            cron, "a day that one of the months has", f"day {fields[3]} of month {fields[4]}", "It would never run."
        )
    return " ".join(fields)


def _values(cron: str, text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    """The values that a field stands for."""
    values: set[int] = set()
    for term in text.split(","):
        match = _TERM.fullmatch(term)
        if match is None or (term.startswith("?") and name not in ("a day of month", "a day of week")):
            raise _wrong(cron, f"{name} of *, numbers, ranges a-b and steps /n", f"'{text}'", "Correct this field.")
        step = int(match["step"] or 1)
        if match["low"] is None:
            first, last = low, high
        else:
            first = _number(cron, match["low"], name, low, high, names)
            # "5/15" means from 5 on, as the server reads it.
            last = _number(cron, match["high"], name, low, high, names) if match["high"] else first
            if match["step"] and not match["high"]:
                last = high
        if step < 1 or first > last:
            raise _wrong(cron, f"{name} whose range rises, in steps of 1 or more", f"'{term}'", "Correct this field.")
        values.update(range(first, last + 1, step))
    return values


def _number(cron: str, text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text.upper() in names:
        return names.index(text.upper()) + low
    if text.isascii() and text.isdecimal() and low <= int(text) <= high:
        return int(text)
    also = f" or {names[0]}-{names[-1]}" if names else ""
    raise _wrong(cron, f"{name} from {low} to {high}{also}", f"'{text}'", "Correct this field.")


def _wrong(cron: str, expected: str, found: str, hint: str) -> ConfigError:
    return ConfigError(f"cron '{cron[:80]}'", expected=expected, found=found, hint=hint)
