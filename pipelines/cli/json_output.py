"""``--json``: what a command shows, for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

__all__ = ["json_option", "show_json"]


def json_option() -> Callable[[Any], Any]:
    """``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def show_json(value: object) -> None:
    """Prints a value as JSON, and nothing else; NaN is refused, and text of any origin stays on its line."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
