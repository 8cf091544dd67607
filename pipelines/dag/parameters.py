"""The parameters of the pipelines, made from what the stages declare: names, types, defaults and texts.

KFP reads a pipeline's parameters from a function's signature and its docstring. ``declared`` makes both from a table,
so that a pipeline around another pipeline needs no copy of its parameters. Defaults and texts come from the configs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_origin

from components.common.contracts.spec import StageSpec
from components.ingest.config import ATTACK_SETTINGS
from pipelines.dag.stages import TRAINING as TASKS_OF_TRAINING

__all__ = ["INJECTED", "RUN", "TRAINING", "Parameter", "declared", "defaults_of", "parameters_of"]

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter of a pipeline.

    Attributes:
        name: Its name.
        kind: Its type, one that KFP knows.
        text: What it is, for the graph's page and the command line.
        default: Its default; a pipeline asks for one that has none.
        setting: The setting that it is, ``stage.setting``, of the first task that has it; empty for any other.
    """

    name: str
    kind: Any
    text: str
    default: Any = _REQUIRED
    setting: str = ""

    def required(self) -> Parameter:
        """The same one without a default."""
        return replace(self, default=_REQUIRED)


def parameters_of(specs: Iterable[StageSpec]) -> tuple[Parameter, ...]:
    """The parameters of some tasks: settings that are parameters of their own, then the others task by task.

    Args:
        specs: The tasks.
    """
    own: dict[str, Parameter] = {}
    further = []
    for spec in specs:
        for setting, name in spec.inputs.items():
            field = spec.config.model_fields[setting]
            if name not in own:
                own[name] = Parameter(
                    name=name,
                    kind=str if get_origin(field.annotation) is Literal else field.annotation,
                    text=spec.config.meaning(setting),
                    default=field.default,
                    setting=f"{spec.name}.{setting}",
                )
        text = f"Further settings of {spec.name} by name."
        further.append(Parameter(name=f"{spec.name}_settings", kind=dict[str, Any], text=text, default={}))
    return (*own.values(), *further)


RUN = (
    Parameter(name="store_root", kind=str, text="``s3://bucket/prefix`` of the run data."),
    Parameter(name="run_id", kind=str, text="Identifier of the run; an unfinished run of the same id is continued."),
)
"""What every pipeline asks for."""

_OF_TRAINING = parameters_of(TASKS_OF_TRAINING)
_INJECTED = {f"ingest.{name}" for name in ("dataset", *ATTACK_SETTINGS)}

INJECTED = tuple(one for one in _OF_TRAINING if one.setting in _INJECTED)
"""The data of a training and the attack on them, which a training on drops does not ask for."""

TRAINING = tuple(one for one in _OF_TRAINING if one.setting not in _INJECTED)
"""What every training asks for besides its data."""


def defaults_of(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Default by name of those that have one."""
    return {
        one.name: dict(one.default) if isinstance(one.default, dict) else one.default
        for one in parameters
        if one.default is not _REQUIRED
    }


def declared(parameters: Iterable[Parameter], summary: str) -> Callable[[Callable[[dict[str, Any]], None]], Any]:
    """Gives a function of one dict, name to value, the signature and the docstring that KFP reads.

    Args:
        parameters: The parameters; those without a default may stand anywhere.
        summary: What the pipeline does, one sentence.
    """
    # Python wants those without a default first.
    table = sorted(parameters, key=lambda one: one.default is not _REQUIRED)

    def decorate(body: Callable[[dict[str, Any]], None]) -> Any:
        def pipeline(*values: Any) -> None:
            body({one.name: value for one, value in zip(table, values, strict=True)})

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature(
            [inspect.Parameter(one.name, kind, default=one.default, annotation=one.kind) for one in table]
        )
        lines = "\n".join(f"    {one.name}: {one.text}" for one in table)
        # Set by name, since a function's type knows of no signature.
        vars(pipeline).update(__signature__=signature)
        pipeline.__doc__ = f"{summary}\n\nArgs:\n{lines}\n"
        return pipeline

    return decorate
