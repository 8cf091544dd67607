"""The stages of the pipelines: one line each. Everything else about a stage is in ``components/<stage>/spec.py``."""

from __future__ import annotations

from importlib import import_module

from components.common.contracts.spec import StageSpec

__all__ = ["IMAGES", "RETRAINING", "TASKS", "TRAINING", "configs_of", "folders_of"]

_TRAINING = (
    "ingest",
    "warmup",
    "split",
    "unlearn",
    "finetune",
    "evaluate",
)
"""Folders of ``components`` whose tasks train and judge a model, in the order of the data."""
_RETRAINING = ("claim", "promote")
"""Folders of the steps around a training on drops."""


def _declared(*folders: str) -> tuple[StageSpec, ...]:
    return tuple(spec for folder in folders for spec in import_module(f"components.{folder}.spec").SPECS)


TRAINING = _declared(*_TRAINING)
"""The tasks of a training, each behind its parents."""
RETRAINING = _declared(*_RETRAINING)
"""The steps of retraining."""
TASKS = {spec.name: spec for spec in (*TRAINING, *RETRAINING)}
"""Every task by its name, which the graph shows and a profile may name."""
IMAGES = tuple(dict.fromkeys(spec.image or spec.folder for spec in TASKS.values()))
"""The stages that have an image, in the order of the data."""


def folders_of(specs: tuple[StageSpec, ...]) -> dict[str, tuple[StageSpec, ...]]:
    """Folder name to its tasks, in the order of ``specs``: a folder is one component."""
    return {spec.folder: tuple(other for other in specs if other.folder == spec.folder) for spec in specs}


def configs_of(specs: tuple[StageSpec, ...]) -> dict[str, type]:
    """Task name to the config that its settings belong to."""
    return {spec.name: spec.config for spec in specs}
