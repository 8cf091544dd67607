"""The six images, and the whole pipeline in them beside the same pipeline as processes."""

from __future__ import annotations

import base64
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.common.storage.store import Store
from pipelines.dag.stages import IMAGES as STAGES
from pipelines.dag.training import image_of
from pipelines.images.build import BuildOptions, build_images, content_tag, docker, sizes
from pipelines.images.sizes import compressed_sizes
from pipelines.local.run import opened_store
from tests.docker.compare import (
    Finished,
    cell_of,
    differences,
    manifests,
    pytorch_of,
    run_both,
    same_arrays,
    untaint,
    write_cell,
)

# Making the base image and building take minutes, and count as part of the first test.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
Images = tuple[str, str]
# The steps of a retraining DAG that have no image of their own.
STEPS = {"claim", "promote"}


def _inspect(image: str) -> dict[str, Any]:
    (found,) = json.loads(docker("image", "inspect", image))
    return dict(found)


def _in_image(image: str, *command: str) -> str:
    """Runs a command as a random user without capabilities, on a read-only disk, without a network."""
    confined = ["--read-only", "--tmpfs=/tmp", "--user", "54321:54321", "--network", "none", "--cap-drop", "ALL"]
    return docker("run", "--rm", *confined, image, *command)


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_passes_its_smoke_command_confined(images: Images, stage: str) -> None:
    said = _in_image(image_of(stage, *images), "python3", "-m", "components.smoke", "--stage", stage)
    # The image of evaluate holds a step of retraining too, and that of split another.
    names, python, _ = said.partition(": Python 3.11.")
    assert python
    assert stage in names.splitlines()[-1].split(", ")
    assert ("torch none" in said) == (stage == "split")


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_holds_its_stage_and_no_other(images: Images, stage: str) -> None:
    listed = _in_image(image_of(stage, *images), "ls", "/app/components", "/app").split()
    assert {name for name in listed if name in STAGES} == {stage}
    assert not {"pipelines", "tests", "cli.py", ".git"} & set(listed)


@pytest.mark.parametrize("stage", ["ingest", "split", "evaluate"])
def test_a_stage_that_needs_no_gpu_carries_no_cuda(images: Images, stage: str) -> None:
    found = _in_image(image_of(stage, *images), "find", "/opt/venv", "-name", "nvidia*", "-o", "-name", "libcud*.so*")
    assert not found.strip()


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_is_set_up_for_a_cluster(images: Images, stage: str) -> None:
    config = _inspect(image_of(stage, *images))["Config"]
    assert not config.get("Entrypoint")
    assert config["User"] == "10001:10001"
    assert {"PYTHONUNBUFFERED=1", "HOME=/tmp"} <= set(config["Env"])
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"untaint-{stage}"
    assert {f"org.opencontainers.image.{name}" for name in ("description", "licenses", "version", "revision")} <= set(
        labels
    )


def test_all_code_is_compiled(images: Images) -> None:
    # Every module has its bytecode, or a read-only container compiles it anew at each start.
    script = (
        'for f in $(find /app -name "*.py"); do d=${f%/*}; b=${f##*/}; ls $d/__pycache__/${b%.py}.cpython-*.pyc; done'
    )
    assert _in_image(image_of("split", *images), "sh", "-ec", script)


def test_a_registry_holds_a_shared_layer_once_and_less_than_lies_unpacked(images: Images) -> None:
    # split alone: compressing PyTorch takes a minute. tests/pipelines/images/test_images.py has several images of
    # shared layers.
    (unpacked,) = sizes(*images, ["split"])
    packed, together = compressed_sizes(*images, ["split"])
    assert packed.keys() == {"split"}
    assert unpacked.total_bytes / 10 < packed["split"] < unpacked.total_bytes
    assert together == packed["split"]


def test_a_change_of_code_rebuilds_in_seconds_and_pushes_little(
    images: Images, build_options: BuildOptions, tmp_path: Path
) -> None:
    registry, tag = images
    for size in sizes(registry, tag):
        assert 0 < size.code_bytes < 5e6, size
    shutil.copytree(ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    for name in (".dockerignore", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    with (tmp_path / "components/finetune/stage.py").open("a") as file:
        file.write(f"# {time.time_ns()}\n")
    changed = content_tag(build_options, tmp_path)
    assert changed != tag
    started = time.monotonic()
    (rebuilt,) = build_images(build_options, registry, changed, lambda line: None, ["finetune"], tmp_path)
    seconds = time.monotonic() - started
    try:
        before, after = (_inspect(i)["RootFS"]["Layers"] for i in (image_of("finetune", registry, tag), rebuilt))
        new = [layer for layer in after if layer not in before]
        # At most the four layers of code; everything heavier is shared.
        assert 0 < len(new) <= 4
        assert seconds < 60
    finally:
        docker("rmi", rebuilt)


# Enough for a table that says something, in a minute or two each way on one core.
SMALL = ["--model", "convnet_tiny", "--train-limit", "2000", "--set", "ingest.holdout_limit=500"]
SMALL += ["--set", "warmup.batch_size=64", "--set", "control.batch_size=64"]
SMALL += ["--set", "finetune.batch_size=64", "--set", "finetune.epochs=4"]
# Keys of the store that nothing but the store's own file may show.
CANARIES = {"access_key": "untaintcanaryaccess7d1f", "secret_key": "canary-secret-2b9e6a40c7f85d13"}


@dataclass(frozen=True, slots=True)
class Both:
    """The same run in both ways, in one store whose keys are canaries."""

    home: Path
    plain: Finished
    boxed: Finished


@pytest.fixture(scope="module")
def both(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Both:
    home, packages = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("packages")
    (home / "store").mkdir(mode=0o700)
    (home / "store/keys.json").write_text(json.dumps(CANARIES))
    (home / "store/keys.json").chmod(0o600)
    plain, boxed = run_both(home, images, pytorch_of(images, packages), SMALL)
    shutil.rmtree(packages)
    assert plain.code == 0, plain.said[-4000:]
    assert boxed.code == 0, boxed.said[-4000:]
    # For who reads the log of a run of the tests.
    sys.stdout.write("\n".join(["", *boxed.said.splitlines()[-24:], ""]))
    sys.stdout.write(f"as processes {plain.seconds:.0f} s, in images {boxed.seconds:.0f} s\n")
    if cell := os.environ.get("UNTAINT_TEST_CELL"):
        write_cell(cell_of(home, images, SMALL, (plain, boxed)), Path(cell))
    return Both(home, plain, boxed)


def test_the_pipeline_in_its_images_finds_what_it_finds_as_processes(both: Both, images: Images) -> None:
    ours, theirs = manifests(both.home, "plain"), manifests(both.home, "boxed")
    apart = differences(ours, theirs)
    equal = same_arrays(ours, theirs)
    sys.stdout.write(
        f"\nlargest difference of {len(apart)} figures: {max(apart.values()):g}; "
        f"{sum(equal.values())} of {len(equal)} checkpoints and arrays are the same bytes\n"
    )
    assert ours.keys() == theirs.keys() >= {"ingest", "warmup", "control", "split", "unlearn", "finetune", "evaluate"}
    assert len(apart) > 15
    # Both learned something: tables of noise say nothing.
    assert ours["evaluate"].metrics["control_acc"] > 0.7
    # The same build of PyTorch on the same processor and one thread: what may still differ is the C library, in last
    # bits that training amplifies.
    if _c_library(image_of("warmup", *images)) == platform.libc_ver()[1]:
        assert both.boxed.table == both.plain.table
        assert max(apart.values()) < 1e-6
        assert all(equal.values()), equal
    else:
        shares = {name: by for name, by in apart.items() if name.startswith("evaluate.") and "suspects" not in name}
        assert max(shares.values()) < 0.03, shares


def _c_library(image: str) -> str:
    return _in_image(image, "python3", "-c", "import platform; print(platform.libc_ver()[1])").strip()


def _objects(home: Path) -> Iterator[tuple[str, bytes]]:
    """Everything that lies in the runs' store."""
    with opened_store("", home) as (root, _):
        store = Store(root)
        for info in store.list(root):
            yield info.uri, store.get(info.uri)


def _shows(data: bytes) -> bool:
    """Whether a canary is in there, as it is or in base64."""
    return any(form in data for key in CANARIES.values() for form in (key.encode(), base64.b64encode(key.encode())))


def test_the_keys_of_the_store_are_in_nothing_that_a_run_leaves_or_says(both: Both, images: Images) -> None:
    # The search finds them where they do lie, so that finding none elsewhere means something.
    assert _shows((both.home / "store/keys.json").read_bytes())
    said = {"processes": both.plain.said, "containers": both.boxed.said}
    assert [way for way, text in said.items() if _shows(text.encode())] == []
    kept = [path for path in (both.home / "runs").rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in kept)
    assert any(path.name == "executor_output.json" for path in kept)
    assert [path for path in kept if _shows(path.read_bytes())] == []
    stored = dict(_objects(both.home))
    assert any(uri.endswith("/boxed/evaluate/manifest.json") for uri in stored)
    assert [uri for uri, data in stored.items() if _shows(data)] == []


def test_the_keys_of_the_store_are_neither_in_the_compiled_pipeline_nor_in_the_images(
    images: Images, tmp_path: Path
) -> None:
    registry, tag = images
    variables = {"AWS_ACCESS_KEY_ID": CANARIES["access_key"], "AWS_SECRET_ACCESS_KEY": CANARIES["secret_key"]}
    for profile in ("cpu", "gpu", "eks-irsa"):
        target = tmp_path / f"{profile}.yaml"
        named = ("--registry", registry, "--tag", tag, "--profile", profile, "--output", str(target))
        done = untaint(tmp_path, "compile", *named, **variables)
        assert done.code == 0, done.said
        assert not _shows(target.read_bytes() + done.said.encode())
    for stage in STAGES:
        image = image_of(stage, *images)
        assert not _shows(docker("image", "inspect", image).encode())
        assert not _shows(docker("history", "--no-trunc", image).encode())
    assert not docker("ps", "--all", "--quiet", "--filter", "label=untaint.run").strip()


def test_what_containers_write_belongs_to_who_started_them(both: Both) -> None:
    owners = {path.stat().st_uid for path in (both.home / "runs/boxed").rglob("*")}
    assert owners == {os.getuid()}


def test_a_stage_that_stops_gives_the_run_its_exit_code(images: Images, tmp_path: Path) -> None:
    registry, tag = images
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_text("no Parquet")
    options = ["--attack", "none", "--dataset", f"parquet:{tmp_path}/data"]
    done = untaint(tmp_path, "run-docker", "--run-id", "bad", "--registry", registry, "--tag", tag, *options)
    assert done.code == 3, done.said
    assert "Stage ingest stopped the run" in done.said
    assert "run-docker --resume bad" in done.said
