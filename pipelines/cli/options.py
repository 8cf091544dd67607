"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pipelines.dag.settings import CONFIGS

__all__ = ["EVERY_SETTING", "OWN_STORE", "name_option", "resume_option", "settings_option", "store_option"]

_Option = Callable[[Any], Any]

OWN_STORE = "Your own store, reached with the AWS_* variables; without it and AWS_ENDPOINT_URL, the embedded one."
EVERY_SETTING = f"Any further setting, several times. Stages: {', '.join(CONFIGS)}."


def store_option(text: str = OWN_STORE) -> _Option:
    """``--store``, also from UNTAINT_STORE.

    Args:
        text: What the store is to the command.
    """
    return click.option("--store", envvar="UNTAINT_STORE", default="", metavar="s3://BUCKET/PREFIX", help=text)


def settings_option(text: str = EVERY_SETTING) -> _Option:
    """``--set``, several times, as ``settings``.

    Args:
        text: Whose settings the command takes.
    """
    return click.option("--set", "settings", multiple=True, metavar="STAGE.KEY=VALUE", help=text)


def resume_option(text: str = "Go on with this run, with the options that it was started with.") -> _Option:
    """``--resume``.

    Args:
        text: What is gone on with.
    """
    return click.option("--resume", default="", metavar="RUN_ID", help=text)


def name_option() -> _Option:
    """``--run-id``."""
    return click.option("--run-id", default="", metavar="NAME", help="Name of the new run. [default: date and time]")
