"""The files of a run's final model: fetched from the store, or read as a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.contracts.errors import ConfigError, ContractError
from components.common.exporters import EXPORTERS, export
from components.common.retraining.champions import champion_of
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import finished_stage
from components.common.storage.store import Store
from pipelines.views.tracking import track

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__ = ["MODEL_FOLDER", "evaluation_of", "fetch_model", "model_of", "read_champion", "take_home"]

MODEL_FOLDER = "model"
"""Folder of the model's files, in a local run's folder."""


def evaluation_of(store: Store, run_id: str) -> StageManifest:
    """The manifest of a finished run's evaluate stage, which published the model's files.

    Raises:
        ConfigError: The run has not reached its end.
        StorageError: The store cannot serve.
    """
    hint = f"Finish it with `untaint run --resume {run_id}`, or name the store with --store."
    return finished_stage(store, run_id, "evaluate", hint)[2]


def read_champion(store: Store, name: str) -> StageManifest:
    """The evaluation of the run whose model is in use under a name.

    Raises:
        ConfigError: No champion of that name.
        ContractError: The run was evaluated anew since its model became the champion.
        StorageError: The store cannot serve.
    """
    found = champion_of(store, name)
    if found is None:
        raise ConfigError(
            f"model {name}", expected="a champion", found="none", hint="`untaint models list` shows the names."
        )
    champion = found[0]
    data = store.get(champion.evaluation_uri, champion.evaluation_sha256)
    return StageManifest.from_bytes(data, champion.evaluation_uri)


def fetch_model(
    store: Store, manifest: StageManifest, folder: Path, formats: Sequence[str] | None = None
) -> list[Path]:
    """Writes the model's files into a folder; every digest is checked.

    A format that the run did not publish is made here, from the published weights.

    Args:
        store: The store.
        manifest: The evaluate stage's manifest.
        folder: Where to; made if it is not there. Files of the same names are replaced.
        formats: Names in ``EXPORTERS``; by default all that the run published.

    Raises:
        ConfigError: An unknown format, one whose packages are not installed, or a run without an exported model.
        ContractError: A published file is damaged.
        StorageError: The store cannot serve.
    """
    published = [name for name in EXPORTERS if all(part in manifest.objects for part in EXPORTERS[name].files)]
    chosen = published if formats is None else list(formats)
    _require(manifest)
    others = export(model_of(store, manifest), made) if (made := [n for n in chosen if n not in published]) else {}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in chosen:
        for part, file in EXPORTERS[name].files.items():
            paths.append(folder / file)
            if part in others:
                paths[-1].write_bytes(others[part])
            else:
                ref = manifest.objects[part]
                store.download_file(ref.uri, paths[-1], ref.sha256, ref.size_bytes)
    return paths


def model_of(store: Store, manifest: StageManifest) -> Classifier:
    """A finished run's final model.

    Raises:
        ConfigError: The run has no exported model.
        ContractError: A published file is damaged.
        StorageError: The store cannot serve.
    """
    from components.common.classifier import classifier_from

    _require(manifest)
    config, weights = (manifest.objects[part] for part in ("model_config", "model_safetensors"))
    return classifier_from(
        store.get(config.uri, config.sha256), store.get(weights.uri, weights.sha256), subject=f"run {manifest.run_id}"
    )


def take_home(store: Store, run_id: str, manifest: StageManifest, folder: Path, write: Callable[[str], None]) -> None:
    """Brings a finished run's model to its folder, and logs the run where that is wanted.

    Args:
        store: The store.
        run_id: The run.
        manifest: The evaluate stage's manifest.
        folder: The run's folder on this machine.
        write: Takes one line for the user.
    """
    if "model_safetensors" in manifest.objects:
        fetch_model(store, manifest, folder / MODEL_FOLDER)
        write(f"model: {folder / MODEL_FOLDER} (untaint predict {run_id} IMAGE…)")
    track(store, run_id, manifest, folder, write)


def _require(manifest: StageManifest) -> None:
    if "model_safetensors" not in manifest.objects:
        raise ContractError(
            f"run {manifest.run_id}",
            expected="an exported model",
            found="none: it was made by an earlier version of untaint",
            hint="Run it again under a new run id.",
        )
