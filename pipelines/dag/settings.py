"""A run's parameters: defaults from the configs, what the user set, and the check of both before anything starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from components.common.contracts.config import Config
from components.common.contracts.errors import ConfigError
from components.evaluate.config import EvaluateConfig
from components.finetune.config import FinetuneConfig
from components.ingest.config import IngestConfig
from components.split.config import SplitConfig
from components.unlearn.config import UnlearnConfig
from components.warmup.config import ControlConfig, WarmupConfig
from pipelines.dag.parameters import INJECTED, TRAINING, defaults_of

__all__ = ["CONFIGS", "apply_settings", "check_parameters", "default_parameters", "stage_configs", "value_of"]

CONFIGS: dict[str, type[Config]] = {
    "ingest": IngestConfig,
    "warmup": WarmupConfig,
    "control": ControlConfig,
    "split": SplitConfig,
    "unlearn": UnlearnConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
}
"""The task's name in the DAG to the config that its settings belong to."""

# Settings that are pipeline parameters of their own: the component's own input would go before the dict's entry.
_OWN_PARAMETER = {
    "ingest": {name: name for name in ("dataset", "train_limit", "attack", "poison_rate", "target_label", "seed")},
    "warmup": {"model": "model", "epochs": "warmup_epochs", "seed": "seed"},
    "control": {"model": "model", "epochs": "control_epochs", "seed": "seed"},
    "split": {"seed": "seed"},
    "unlearn": {"seed": "seed"},
    "finetune": {"epochs": "finetune_epochs", "seed": "seed"},
    "evaluate": {},
}


def default_parameters() -> dict[str, Any]:
    """The pipeline's parameters without ``store_root`` and ``run_id``, each with its config's default."""
    return defaults_of((*INJECTED, *TRAINING))


def apply_settings(
    parameters: Mapping[str, Any],
    settings: Iterable[str],
    further: Mapping[str, type[Config]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Parameters with ``stage.key=value`` settings applied; values are YAML, and text where the setting is text.

    The undefended model trains for as long as warm-up and fine-tuning together, unless ``control.epochs`` says
    otherwise.

    Args:
        parameters: As from ``default_parameters``.
        settings: What the user wrote.
        further: Steps besides the training's stages, with their configs.

    Raises:
        ConfigError: Not of that form, or no such stage. Names and values are checked by ``check_parameters``.
    """
    configs = {**CONFIGS, **further}
    changed: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in parameters.items()
    }
    named: set[str] = set()
    for text in settings:
        address, equals, written = text.partition("=")
        stage, dot, key = address.partition(".")
        if not (equals and dot and key) or stage not in configs:
            raise ConfigError(
                f"setting '{text[:200]}'",
                expected=f"stage.key=value with a stage of {', '.join(configs)}",
                found="another form" if stage in configs else f"stage '{stage[:40]}'",
                hint="Write it like warmup.batch_size=64.",
            )
        value = value_of(configs[stage], key, written)
        own = _OWN_PARAMETER.get(stage, {}).get(key)
        named.add(own or key)
        if own is None:
            changed[f"{stage}_settings"][key] = value
        else:
            changed[own] = value
    epochs = [changed["warmup_epochs"], changed["finetune_epochs"]]
    if named & {"warmup_epochs", "finetune_epochs"} and "control_epochs" not in named:
        # What is no number at all is told by check_parameters.
        if all(isinstance(count, int) for count in epochs):
            changed["control_epochs"] = sum(epochs)
    return changed


def value_of(config: type[Config], name: str, written: str) -> Any:
    """The value of a setting as a user wrote it: YAML, and text where the setting is text.

    Args:
        config: The config that the setting belongs to.
        name: Its name; of one that does not exist the value is told all the same.
        written: What stands behind the equals sign.

    Raises:
        ConfigError: No YAML.
    """
    import yaml

    field = config.model_fields.get(name)
    kind = field.annotation if field else None
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as problem:
        raise ConfigError(
            f"{config.stage}.{name[:80]}",
            expected="a YAML value behind the equals sign",
            found=type(problem).__name__,
            hint="Put the value in quotes if it is text with special characters.",
        ) from None
    # YAML takes no for false, 0.1 for a number and 2026-11-20 for a date, where the setting wants these very words.
    if kind is str and not isinstance(value, str | list | dict):
        return written.strip()
    if kind is float and isinstance(value, str):
        # And 5e-4, without a point, for text.
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def stage_configs(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Every task's config, as its stage will build it.

    Args:
        parameters: As from ``default_parameters``.

    Raises:
        ConfigError: An unknown setting, a value of another type or out of range.
    """
    built = {}
    for stage, config in CONFIGS.items():
        own = {key: parameters[name] for key, name in _OWN_PARAMETER[stage].items()}
        built[stage] = config(**{**parameters[f"{stage}_settings"], **own})
    return built


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Builds every stage's config, so that a wrong setting stops the run before it starts.

    Raises:
        ConfigError: As from ``stage_configs``.
    """
    stage_configs(parameters)
