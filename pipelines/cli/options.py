"""Options that several commands take. Those of settings are made from the configs: name, default and text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args, get_origin

import click

from components.common.contracts.config import Config
from pipelines.dag.parameters import Parameter
from pipelines.dag.stages import TASKS, TRAINING

__all__ = [
    "EVERY_SETTING",
    "OWN_STORE",
    "control_option",
    "name_option",
    "parameter_options",
    "resume_option",
    "setting_options",
    "settings_of",
    "settings_option",
    "store_option",
]

_Option = Callable[[Any], Any]
_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT"}
# Stands for the dot of stage.setting in the name under which click hands a value over, which must be an identifier.
_DOT = "__of__"

OWN_STORE = "Your own store, reached with the AWS_* variables; without it and AWS_ENDPOINT_URL, the embedded one."
EVERY_SETTING = f"Any setting, several times. Stages: {', '.join(spec.name for spec in TRAINING)}."


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


def control_option(*, default: bool = True) -> _Option:
    """``--control`` and ``--no-control``.

    Args:
        default: Which of them holds when none is given.
    """
    text = "Train the undefended model too, for comparison."
    return click.option("--control/--no-control", default=default, show_default=True, help=text)


def setting_options(task: str, names: Iterable[str], **flags: str) -> _Option:
    """An option for each of some settings of a task; ``settings_of`` reads them.

    Args:
        task: Name of the task.
        names: Its settings.
        flags: Another flag for a setting, by its name.
    """
    config = TASKS[task].config
    return _options((flags.get(name, _flag(name)), f"{task}.{name}", config, name) for name in names)


def parameter_options(parameters: Iterable[Parameter]) -> _Option:
    """An option for each of a pipeline's parameters that is a setting; ``settings_of`` reads them.

    Args:
        parameters: The parameters.
    """
    own = [one for one in parameters if one.setting]
    tasks = {one.name: one.setting.partition(".") for one in own}
    return _options((_flag(one.name), one.setting, TASKS[tasks[one.name][0]].config, tasks[one.name][2]) for one in own)


def settings_of(given: dict[str, Any], settings: Iterable[str]) -> list[str]:
    """What the user set, by options or by ``--set``, in one form: ``stage.key=value`` texts. ``--set`` comes last.

    Args:
        given: The command's further parameters; those of options made here are taken out.
        settings: The values of ``--set``.
    """
    chosen = [(name.replace(_DOT, "."), given.pop(name)) for name in list(given) if _DOT in name]
    return [*(f"{setting}={text}" for setting, text in chosen if text is not None), *settings]


def _options(rows: Iterable[tuple[str, str, type[Config], str]]) -> _Option:
    made = list(rows)

    def decorate(command: Any) -> Any:
        for flag, setting, config, name in reversed(made):
            field = config.model_fields[name]
            default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            is_choice = get_origin(field.annotation) is Literal
            # The value stays text, so that the config judges it, with the same error as for --set.
            command = click.option(
                flag,
                setting.replace(".", _DOT),
                default=None,
                metavar="|".join(get_args(field.annotation)) if is_choice else _METAVARS[field.annotation],
                help=config.meaning(name).replace("``", "`") + (f"  [default: {default}]" if default else ""),
            )(command)
        return command

    return decorate


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
