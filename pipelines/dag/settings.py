"""A run's parameters: defaults from the configs, what the user set, and the check of both before anything starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_origin

from components.common.contracts.config import Config
from components.common.contracts.errors import ConfigError
from pipelines.dag.parameters import INJECTED, TRAINING, defaults_of
from pipelines.dag.stages import TASKS
from pipelines.dag.stages import TRAINING as TASKS_OF_TRAINING

__all__ = ["apply_settings", "check_parameters", "default_parameters", "stage_configs", "value_of"]


def default_parameters() -> dict[str, Any]:
    """The pipeline's parameters without ``store_root`` and ``run_id``, each with its config's default."""
    return defaults_of((*INJECTED, *TRAINING))


def apply_settings(
    parameters: Mapping[str, Any], settings: Iterable[str], tasks: Iterable[str] | None = None
) -> dict[str, Any]:
    """Parameters with ``stage.key=value`` settings applied; values are YAML, and text where the setting is text.

    The undefended model trains for as long as warm-up and fine-tuning together, unless ``control.epochs`` says
    otherwise.

    Args:
        parameters: As from ``default_parameters``.
        settings: What the user wrote.
        tasks: Names of the tasks whose settings may be set; those of a training by default.

    Raises:
        ConfigError: Not of that form, or no such stage. Names and values are checked by ``check_parameters``.
    """
    known = {name: TASKS[name] for name in tasks or [spec.name for spec in TASKS_OF_TRAINING]}
    changed: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in parameters.items()
    }
    named: set[str] = set()
    for text in settings:
        address, equals, written = text.partition("=")
        stage, dot, key = address.partition(".")
        if not (equals and dot and key) or stage not in known:
            raise ConfigError(
                f"setting '{text[:200]}'",
                expected=f"stage.key=value with a stage of {', '.join(known)}",
                found="another form" if stage in known else f"stage '{stage[:40]}'",
                hint="Write it like warmup.batch_size=64.",
            )
        value = value_of(known[stage].config, key, written)
        own = known[stage].inputs.get(key)
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
    """The value of a setting as a user wrote it: YAML, and where the setting is text what stands there.

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
    if kind is str or get_origin(kind) is Literal:
        # YAML would take no for false, 2026-11-20 for a date and what follows a # in a path for a remark.
        text = written.strip()
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as problem:
        raise ConfigError(
            f"{config.stage}.{name[:80]}",
            expected=config.expected(name) if field else "a YAML value behind the equals sign",
            found=f"{written[:80]!r} ({type(problem).__name__})",
            hint="Write the value behind the equals sign as in YAML.",
        ) from None
    if kind is float and isinstance(value, str):
        # YAML takes 5e-4, without a point, for text.
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
    for spec in TASKS_OF_TRAINING:
        own = {key: parameters[name] for key, name in spec.inputs.items()}
        built[spec.name] = spec.config(**{**parameters[f"{spec.name}_settings"], **own})
    return built


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Builds every stage's config, so that a wrong setting stops the run before it starts.

    Raises:
        ConfigError: As from ``stage_configs``.
    """
    stage_configs(parameters)
