"""The six stages in this process, one after the other, with a temporary folder in the place of the object store.

They are the pipeline's own stages: a call and a run with the same data, settings and seed come to the same result.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from components.common.classifier import classifier_from
from components.common.contracts.config import Config
from components.common.contracts.errors import ConfigError
from components.common.contracts.spec import StageSpec
from components.common.datasets.base import check_class_sizes, stratified_rows
from components.common.runs.lifecycle import Published
from components.common.storage.folder import FolderStore
from components.common.tables.gate import sharing_gate
from components.common.tables.parquet import decode_table
from components.common.tables.tables import SUSPECTS
from components.finetune.config import FinetuneConfig
from components.ingest.config import CANARY_RATIO
from components.warmup.config import WarmupConfig
from untaint.result import Result

__all__ = ["audit", "defend"]

_WARMUP, _FINETUNE = WarmupConfig(), FinetuneConfig()
_STAGES = ("ingest", "warmup", "split", "unlearn", "finetune", "evaluate")


def defend(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    holdout: float = 0.2,
    mirror: bool = False,
    model: str = _WARMUP.model,
    warmup_epochs: int = _WARMUP.epochs,
    finetune_epochs: int = _FINETUNE.epochs,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Trains a clean classifier from images whose labels may be poisoned, and names the suspects.

    Args:
        images: uint8 [n, h, w] (grey), [n, c, h, w] or [n, h, w, c] with one channel or three; square.
        labels: [n], whole numbers or texts; at least 10 training images of each class.
        class_names: Name of class k at position k, for labels that are numbers from 0 on; the labels themselves by
            default.
        holdout: Share of every class that is not trained on and that accuracy is measured on, in (0, 1).
        mirror: Whether a horizontal flip keeps the class. Not so for digits and text.
        model: Architecture, a name that ``untaint list architectures`` shows.
        warmup_epochs: Passes of the warm-up.
        finetune_epochs: Passes of the training of the final model.
        seed: Of everything random. Equal calls give equal results on a CPU.
        settings: Further settings by ``stage.name``, such as ``{"unlearn.steps": 60}``.

    Returns:
        Verdict, suspects, model and report.

    Raises:
        ConfigError: Images or labels of another form, or a setting that cannot be used.
        DataError: Too few images of a class, or images that are all the same.
    """
    pixels = _pixels(images)
    numbers, names = _classes(labels, len(pixels), class_names)
    order, n_train = _divided(numbers, names, holdout, seed)
    with tempfile.TemporaryDirectory(prefix="untaint-") as folder:
        path = Path(folder, "arrays.npz")
        np.savez(path, images=pixels[order], labels=numbers[order], class_names=np.array(names), n_train=n_train)
        given = {"dataset": f"npz:{path}", "mirror": "yes" if mirror else "no"}
        result = _run(Path(folder), given, model, (warmup_epochs, finetune_epochs), seed, settings or {})
    rows = pa.array(order[result.suspects["sample_id"].to_numpy()], pa.int64())
    table = result.suspects.drop_columns(["key", "sample_id"]).add_column(0, "row", rows)
    return replace(result, suspects=table)


def audit(
    path: Path | str,
    *,
    holdout: str = "",
    image_size: int = 0,
    mirror: str = "auto",
    canary: float = CANARY_RATIO,
    model: str = _WARMUP.model,
    warmup_epochs: int = _WARMUP.epochs,
    finetune_epochs: int = _FINETUNE.epochs,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Trains a clean classifier from a folder of images, and names the suspects: ``untaint ingest`` as a function.

    Files are read by processes of their own, so that a hostile one costs itself alone. A script must therefore call
    this below ``if __name__ == "__main__":``, as with everything that starts processes.

    Args:
        path: A folder with one folder of images per class, Parquet shards, or a list of keys and labels.
        holdout: A share in (0, 1), or the folder of a holdout; by default what the list says, else a fifth.
        image_size: Side in pixels that all images are resized to; 0 keeps them, and then all must have one size.
        mirror: Whether a horizontal flip keeps the class: ``yes``, ``no`` or ``auto``.
        canary: Share of the training images that get a trigger of our own, to see whether it is caught, in [0, 0.1].
        model: As for ``defend``.
        warmup_epochs: As for ``defend``.
        finetune_epochs: As for ``defend``.
        seed: As for ``defend``.
        settings: As for ``defend``.

    Raises:
        ConfigError: No such folder, or a setting that cannot be used.
        DataError: Too many unusable images, or too few of a class.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"folder {folder}",
            expected="a folder of images on this machine",
            found="a file" if folder.exists() else "nothing of that name",
            hint="Check the path; `untaint ingest --drop s3://…` audits what is in S3.",
        )
    given = {
        "dataset": f"drop:{folder}",
        "holdout": holdout,
        "image_size": image_size,
        "mirror": mirror,
        "canary_ratio": float(canary),
    }
    with tempfile.TemporaryDirectory(prefix="untaint-") as scratch:
        result = _run(Path(scratch), given, model, (warmup_epochs, finetune_epochs), seed, settings or {})
    return replace(result, suspects=result.suspects.drop_columns(["sample_id"]))


def _run(
    folder: Path,
    ingest: Mapping[str, Any],
    model: str,
    epochs: tuple[int, int],
    seed: int,
    settings: Mapping[str, Any],
) -> Result:
    """Runs all stages with a folder as their store."""
    own = {
        "ingest": {**ingest, "attack": "none"},
        "warmup": {"model": model, "epochs": epochs[0]},
        "finetune": {"epochs": epochs[1]},
    }
    # All of them first, so that a wrong setting costs no training.
    # The model's other formats are made when it is saved, if it is.
    configs = _configs(own, seed, {"evaluate.formats": "safetensors", **settings})
    root = f"file://{folder}"
    with sharing_gate(), _undisturbed():
        evaluated = _stages(configs, root, "library")
    return _result(FolderStore(root), evaluated)


def _specs() -> dict[str, StageSpec]:
    """The declarations of the stages, in the order of the data."""
    return {name: import_module(f"components.{name}.spec").SPECS[0] for name in _STAGES}


def _configs(own: Mapping[str, Mapping[str, Any]], seed: int, settings: Mapping[str, Any]) -> dict[str, Config]:
    """The settings of every stage.

    Args:
        own: What the call itself decides, by stage.
        seed: Of every stage that has one.
        settings: The user's, by ``stage.name``.
    """
    further: dict[str, dict[str, Any]] = {name: {} for name in _STAGES}
    for text, value in settings.items():
        stage, _, name = text.partition(".")
        if stage not in further or not name:
            raise ConfigError(
                f"setting '{text[:80]}'",
                expected=f"STAGE.NAME, with a stage of {', '.join(_STAGES)}",
                found="another name",
                hint="For example unlearn.steps.",
            )
        further[stage][name] = value
    configs = {}
    for name, spec in _specs().items():
        seeded = {"seed": seed} if "seed" in spec.config.model_fields else {}
        configs[name] = spec.config(**{**further[name], **seeded, **own.get(name, {})})
    return configs


def _stages(configs: Mapping[str, Config], root: str, run_id: str) -> Published:
    """Runs the stages one after the other; gives what evaluate published."""
    done: dict[str, tuple[str, str]] = {}
    for name, spec in _specs().items():
        arguments: list[Any] = [configs[name], root, run_id]
        if spec.parents:
            arguments.append({parent: done[parent] for parent in spec.parents if parent in done})
        published: Published = import_module(f"{spec.package}.stage").run_stage(*arguments)
        done[name] = (published.uri, published.sha256)
        for output, uri in published.outputs.items():
            # A manifest of its own beside the stage's, as the truth of ingest.
            if output.endswith("_uri") and uri:
                manifest = output.removesuffix("_uri")
                done[manifest] = (uri, published.outputs[f"{manifest}_sha256"])
    return published


def _result(store: FolderStore, evaluated: Published) -> Result:
    manifest = evaluated.manifest
    suspects, config, weights = (
        store.get(ref.uri, ref.sha256)
        for ref in (manifest.object(name, evaluated.uri) for name in ("suspects", "model_config", "model_safetensors"))
    )
    return Result(
        verdict=str(manifest.facts["verdict"]),
        reason=str(manifest.facts.get("reason") or ""),
        acc=manifest.metrics.get("acc"),
        suspects=decode_table(suspects, SUSPECTS, subject="suspects"),
        model=classifier_from(config, weights, subject="the model"),
        report_html=evaluated.files["report"].decode(),
    )


def _pixels(images: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """The images as uint8 [n, c, h, w]."""
    array = np.asarray(images)
    shown = f"{array.dtype} of the shape {list(array.shape)}"
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    usable = array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3) and len(array)
    if not usable or array.shape[2] != array.shape[3]:
        raise ConfigError(
            "images",
            expected="square uint8 images: [n, h, w], [n, c, h, w] or [n, h, w, c] with one channel or three",
            found=shown,
            hint="Scale values to 0 to 255, and crop or resize the images.",
        )
    return np.ascontiguousarray(array)


def _classes(
    labels: npt.ArrayLike, rows: int, class_names: Sequence[str] | None
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The labels as numbers from 0 on, and the names of the classes."""
    array = np.asarray(labels)
    if array.shape != (rows,) or array.dtype.kind not in "iuUO":
        raise ConfigError(
            "labels",
            expected=f"whole numbers or texts [{rows}], one for each image",
            found=f"{array.dtype} of the shape {list(array.shape)}",
            hint="Give one label per image.",
        )
    if class_names is None:
        values, numbers = np.unique(array, return_inverse=True)
        return numbers.astype(np.int64), [str(value) for value in values]
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(class_names):
        raise ConfigError(
            "labels",
            expected=f"whole numbers from 0 to {len(class_names) - 1}, positions in class_names",
            found=f"{array.dtype}" + (f" from {array.min()} to {array.max()}" if array.dtype.kind in "iu" else ""),
            hint="Leave class_names out to take the labels themselves as names.",
        )
    return array.astype(np.int64), [str(name) for name in class_names]


def _divided(
    labels: npt.NDArray[np.int64], names: Sequence[str], holdout: float, seed: int
) -> tuple[npt.NDArray[np.int64], int]:
    """The rows, training rows first, and how many of them are trained on."""
    if not 0 < holdout < 1:
        raise ConfigError("holdout", expected="a share in (0, 1)", found=str(holdout), hint="0.2 is usual.")
    check_class_sizes(labels, [f"'{name}'" for name in names], "labels", "Add images, or leave the class out.")
    wanted = max(len(names), round(holdout * len(labels)))
    held = stratified_rows(labels, wanted, seed, "holdout")
    train = np.setdiff1d(np.arange(len(labels)), held)
    return np.concatenate([train, held]), len(train)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leaves torch's random numbers and its settings for determinism as they were."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
