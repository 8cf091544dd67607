"""What can be checked of a run before its first stage starts: names, sizes, the folder, the disk, the store.

Every check is one that a stage would make too, later and after work that is then in vain.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.contracts.errors import ConfigError, DataError
from components.common.contracts.os_errors import full_disk, room

if TYPE_CHECKING:
    from components.common.intake.apart import Apart
    from components.common.intake.sources import Folder
    from components.common.storage.store import Store

__all__ = ["check_agreement", "check_images", "check_machine", "check_names"]

_FIXED_BYTES = 256 * 2**20
"""Room for what a run writes whatever its data, models above all. Runs of the default model on digits left 7 to 15 MiB;
the weights of a resnet50 are 90 MiB, and a few copies of them are kept."""
_COPIES = 2
"""Room on the store's disk per byte of pixels: ingest stored 1.1 bytes for each of 12,000 images of CIFAR-10."""
_SETS = {"mnist5k": (5_000, 1, 28), "cifar10": (60_000, 3, 32)}
"""Images, channels and side of the datasets that have a fixed number of them."""
_LISTED, _LOOKED_AT = 10_000, 24
"""Entries of a folder that are listed to learn the size of its images, and how many of them are read."""


def check_names(parameters: Mapping[str, Any]) -> None:
    """Looks every name and value of a run up, without any data.

    Args:
        parameters: The training's parameters, as from ``pipelines.dag.settings.default_parameters``.

    Raises:
        ConfigError: An unknown setting, attack, dataset or model; a value out of range; a model for larger images.
    """
    from pipelines.dag.settings import stage_configs

    configs = stage_configs(parameters)
    kind, _, place = str(parameters["dataset"]).partition(":")
    if place.startswith("s3://"):
        from components.common.storage.addresses import parse_uri

        parse_uri(place)
    _check_models(configs, configs["ingest"].image_size or _SETS.get(kind, (0, 0, 0))[2])


def check_machine(parameters: Mapping[str, Any], home: Path, *, embedded: bool) -> None:
    """Checks the folder and the disks that a run on this machine writes to.

    Args:
        parameters: As for ``check_names``.
        home: Folder of what untaint keeps on this machine.
        embedded: Whether the run's data are kept in it too.

    Raises:
        OSError: The folder cannot be written; ``os_errors.explained`` makes it an error that says so.
        ResourceError: A disk has less room than the run takes.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except PermissionError as problem:
        # The name of the file that was tried says nothing.
        raise PermissionError(problem.errno, problem.strerror, str(home)) from None
    pixels = _pixel_bytes(parameters)
    at_home = _FIXED_BYTES // 8 + embedded * (_FIXED_BYTES + _COPIES * pixels)
    for folder, size in ((home, at_home), (Path(tempfile.gettempdir()), pixels)):
        if room(folder) < size:
            raise full_disk(folder, f"{size / 2**20:.0f} MiB for this run")


def check_images(store: Store, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Checks that the models can take the images: those that the run has read, or those that it is going to read.

    Args:
        store: The store of the run data.
        run_id: The run.
        parameters: As for ``check_names``.

    Raises:
        ConfigError: A model cannot take images of that size.
        DataError: There is no folder of that name on this machine.
        StorageError: The store cannot answer.
    """
    from components.common.intake.store_folder import folders
    from components.common.runs.publish import find_manifest
    from components.common.storage.addresses import join
    from pipelines.dag.settings import stage_configs

    configs = stage_configs(parameters)
    done = find_manifest(store, join(store.root, "runs", run_id, "ingest"))
    place = str(parameters["dataset"]).partition(":")[2]
    if done is not None:
        # The data may be gone by now, and are not needed any more.
        _check_models(configs, int(done[2].facts["image_shape"][1]))
    elif place and not configs["ingest"].image_size:
        _check_models(configs, _common_side(folders(store)(place)))


def check_agreement(store: Store, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Checks that a run can be resumed with these parameters: what is finished was made with the same ones.

    Args:
        store: The store of the run data.
        run_id: The run.
        parameters: As for ``check_names``.

    Raises:
        ConfigError: A finished stage has other settings, or was made by another version of untaint.
    """
    from components.common.runs.artifacts import stage_key
    from components.common.runs.lifecycle import code_version
    from components.common.runs.publish import find_manifest
    from components.common.storage.addresses import join
    from pipelines.dag.settings import stage_configs
    from pipelines.dag.stages import TASKS

    for stage, config in stage_configs(parameters).items():
        found = find_manifest(store, join(store.root, "runs", run_id, stage))
        if found is None:
            continue
        manifest = found[2]
        if manifest.code_version != code_version(TASKS[stage].folder):
            raise ConfigError(
                f"run {run_id}, stage {stage}",
                expected="results of this version of untaint",
                found="a result of another version",
                hint="Start a new run: the same command without --resume.",
            )
        settings = config.model_dump()
        if stage_key(stage, settings, manifest.parents, manifest.code_version) == manifest.key:
            continue
        differing = [
            f"{name} {_short(manifest.config[name])}, not {_short(settings[name])}"
            for name in sorted(settings)
            if name in manifest.config and manifest.config[name] != settings[name]
        ]
        raise ConfigError(
            f"run {run_id}, stage {stage}",
            expected="the settings with which it finished",
            found=f"it done with {'; '.join(differing) or 'another attack'}",
            hint="Leave these options out to resume the run, or start a new run: the same command without --resume.",
        )


def _short(value: Any) -> str:
    return repr(value)[:60]


def _check_models(configs: Mapping[str, Any], side: int) -> None:
    """Checks that the models can take images of that size; nothing if it is 0, unknown."""
    if not side:
        return
    from components.common.models.base import check_size

    for name in sorted({configs["warmup"].model, configs["control"].model}):
        check_size(name, side, side)


def _common_side(folder: Folder) -> int:
    """Height of a folder's images if those that are looked at, from all over it, have one; else 0.

    Where sizes differ the most frequent one stays, which only a reading of all can tell.
    """
    from components.common.intake.apart import Apart
    from components.common.intake.images import MAX_IMAGE_BYTES
    from components.common.intake.names import shard_kind

    entries = list(itertools.islice(folder.entries(), _LISTED))
    shards = [key for key, _ in entries if shard_kind(key)]
    with Apart() as apart, tempfile.TemporaryDirectory(prefix="untaint-look-") as scratch:
        # Hostile files are opened in a process of their own.
        if shards:
            sides = {_side_of(apart, _shard_side, folder.fetch(key, Path(scratch)), key) for key in shards[:1]}
        else:
            chosen = entries[:: max(1, len(entries) // _LOOKED_AT)]
            blobs = [folder.read(key, size) for key, size in chosen if 0 < size <= MAX_IMAGE_BYTES]
            sides = {_side_of(apart, _side, blob) for blob in blobs}
    sides.discard(0)
    return sides.pop() if len(sides) == 1 else 0


def _side_of(apart: Apart, look: Callable[..., int], *arguments: Any) -> int:
    """What a look at a file says; 0 where it cannot: the stage that reads it says better what is wrong."""
    from components.common.intake.apart import EndedError

    with contextlib.suppress(EndedError, DataError, OSError, ValueError, KeyError, TypeError):
        return int(apart.call(look, *arguments))
    return 0


def _shard_side(path: Path, key: str) -> int:
    import numpy as np

    from components.common.intake.columns import ColumnNames
    from components.common.intake.shards import shard_images

    for image in shard_images(path, key, ColumnNames(), np.zeros(1, np.int64)):
        return _side(image if isinstance(image, bytes) else None)
    return 0


def _side(data: bytes | None) -> int:
    from components.common.intake.images import decode

    try:
        return int(decode(data or b"", 0).shape[1])
    except DataError:
        return 0


def _pixel_bytes(parameters: Mapping[str, Any]) -> int:
    """Bytes of all images once decoded; 0 where that cannot be said without reading them."""
    kind, _, place = str(parameters["dataset"]).partition(":")
    settings = parameters["ingest_settings"]
    side = int(settings.get("image_size") or 0)
    count, channels, own_side = _SETS.get(kind, (0, 3, 32))
    if place and "://" not in place:
        count = sum(len(names) for _, _, names in os.walk(Path(place).expanduser()))
    limits = [int(parameters["train_limit"]), int(settings.get("holdout_limit") or 0)]
    if all(limits):
        count = min(count, sum(limits))
    return count * channels * (side or own_side) ** 2
