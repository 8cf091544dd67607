"""The parameters of the pipelines: names, types, defaults and texts, once for all pipelines that have them.

KFP reads a pipeline's parameters from a function's signature and its docstring. ``declared`` makes both from a table,
so that a pipeline around another pipeline needs no copy of its parameters. Every default comes from a stage's config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from components.finetune.config import FinetuneConfig
from components.ingest.config import IngestConfig
from components.warmup.config import WarmupConfig

__all__ = ["INJECTED", "RUN", "TRAINING", "Parameter", "declared", "defaults_of", "settings_of"]

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter of a pipeline.

    Attributes:
        name: Its name.
        kind: Its type, one that KFP knows.
        text: What it is, for the graph's page.
        default: Its default; a pipeline asks for one that has none.
    """

    name: str
    kind: Any
    text: str
    default: Any = _REQUIRED

    def required(self) -> Parameter:
        """The same one without a default."""
        return Parameter(name=self.name, kind=self.kind, text=self.text)


def settings_of(stage: str, text: str) -> Parameter:
    """The parameter that holds a stage's further settings.

    Args:
        stage: The task's name.
        text: What the settings are.
    """
    return Parameter(name=f"{stage}_settings", kind=dict[str, Any], text=text, default={})


def _configured(name: str, default: Any, text: str) -> Parameter:
    return Parameter(name=name, kind=type(default), text=text, default=default)


_INGEST = IngestConfig()
_WARMUP = WarmupConfig()
_FINETUNE = FinetuneConfig()

RUN = (
    Parameter(name="store_root", kind=str, text="``s3://bucket/prefix`` of the run data."),
    Parameter(name="run_id", kind=str, text="Identifier of the run; an unfinished run of the same id is continued."),
)
"""What every pipeline asks for."""

INJECTED = (
    _configured(
        "dataset",
        _INGEST.dataset,
        "Name of the dataset: ``mnist5k``, ``cifar10`` or ``parquet:<folder or s3 prefix>``.",
    ),
    _configured("attack", _INGEST.attack, "Attack to inject, or ``none`` to take the data as they are."),
    _configured("poison_rate", _INGEST.poison_rate, "Poisoned share of the training set, in [0, 1]."),
    _configured("target_label", _INGEST.target_label, "Class that triggered images are to be taken for."),
)
"""The data of a training and the attack on them, which a training on drops does not ask for."""

TRAINING = (
    _configured("train_limit", _INGEST.train_limit, "Training samples to take, stratified; 0 for all."),
    _configured("model", _WARMUP.model, "Name of the model's architecture."),
    _configured("seed", _INGEST.seed, "Seed of everything random."),
    _configured("warmup_epochs", _WARMUP.epochs, "Passes of the warm-up over the training set."),
    _configured("finetune_epochs", _FINETUNE.epochs, "Passes of the fine-tuning over the training set."),
    _configured(
        "control_epochs",
        _WARMUP.epochs + _FINETUNE.epochs,
        "Passes of the undefended model, usually those of warm-up and fine-tuning together.",
    ),
    settings_of("ingest", "Further settings of ingest by name."),
    settings_of("warmup", "Further settings of warmup by name."),
    settings_of("control", "Further settings of the undefended model's training by name."),
    settings_of("split", "Further settings of split by name."),
    settings_of("unlearn", "Further settings of unlearn by name."),
    settings_of("finetune", "Further settings of finetune by name."),
    settings_of("evaluate", "Further settings of evaluate by name."),
)
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
