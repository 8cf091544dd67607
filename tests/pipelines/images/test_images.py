"""What the images are made of, as far as it can be told without building them."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import pytest

from components.common.contracts.errors import ConfigError
from pipelines.dag import training
from pipelines.dag.stages import TASKS
from pipelines.images.build import CPU_STAGES, STAGES, BuildOptions, build_images, content_tag
from pipelines.images.sizes import compressed_sizes

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
OPTIONS = BuildOptions()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("docker", "components"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dockerignore", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "components/split/algorithm.py",
        "components/container.py",
        "components/evaluate/templates/report.html",
        "docker/Dockerfile",
        "docker/requirements/common.txt",
        "requirements.lock",
        ".dockerignore",
    ],
)
def test_the_tag_changes_with_everything_that_goes_into_an_image(checkout: Path, path: str) -> None:
    before = content_tag(OPTIONS, checkout)
    with (checkout / path).open("a") as file:
        file.write("\n")
    assert content_tag(OPTIONS, checkout) != before


@pytest.mark.parametrize("path", ["components/split/README.md", "README.md", "pyproject.toml"])
def test_the_tag_stays_where_nothing_of_an_image_changed(checkout: Path, path: str) -> None:
    before = content_tag(OPTIONS, checkout)
    with (checkout / path).open("a") as file:
        file.write("\n")
    pyc = checkout / "components/split/__pycache__/algorithm.cpython-311.pyc"
    pyc.parent.mkdir()
    pyc.write_bytes(b"x")
    assert content_tag(OPTIONS, checkout) == before


def test_the_tag_follows_the_options_but_not_where_packages_come_from() -> None:
    tag = content_tag(OPTIONS)
    assert re.fullmatch("[0-9a-f]{12}", tag)
    assert content_tag(BuildOptions(torch="torch==2.14.0")) != tag
    assert content_tag(BuildOptions(torch_index_url="https://u:p@index.example", network="host")) == tag


def test_the_stages_with_an_image_are_those_that_the_compiled_pipeline_asks_for(tmp_path: Path) -> None:
    training.compile_pipeline(tmp_path / "p.yaml", "", "t")
    assert {f"untaint-{stage}:t" for stage in STAGES} == set(
        re.findall(r"untaint-[a-z]+:t", (tmp_path / "p.yaml").read_text())
    )


def test_only_training_stages_get_the_build_for_cuda() -> None:
    torch = {stage: OPTIONS.arguments(stage)["TORCH"] for stage in STAGES}
    assert {stage for stage in STAGES if torch[stage] == OPTIONS.torch_cpu} == set(CPU_STAGES)
    # split's target stands on the layers below PyTorch, so it has neither build.
    assert re.search(r"^FROM runtime AS split$", DOCKERFILE, re.M)


def test_the_index_of_the_cpu_build_is_not_searched_for_the_cuda_build() -> None:
    options = BuildOptions(torch_cpu_index_url="https://cpu.example", torch_index_url="https://cuda.example")
    assert options.arguments("warmup")["TORCH_INDEX_URL"] == "https://cuda.example"
    assert options.arguments("ingest")["TORCH_INDEX_URL"] == "https://cpu.example"


def test_a_build_without_a_source_of_the_cpu_build_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="torch-cpu-index-url"):
        build_images(OPTIONS, "untaint", "t", print)


def test_a_folder_without_a_dockerfile_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkout"):
        content_tag(OPTIONS, tmp_path)


def test_every_requirement_of_an_image_is_locked() -> None:
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    for file in (ROOT / "docker/requirements").glob("*.txt"):
        names = {line for line in file.read_text().splitlines() if line and not line.startswith("#")}
        assert names, file
        assert names <= locked, file


def test_the_versions_of_pytorch_are_those_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert {OPTIONS.torch, OPTIONS.torchvision} <= set(lock)
    assert OPTIONS.torch_cpu == f"{OPTIONS.torch}+cpu"
    assert f"ARG TORCH={OPTIONS.torch}\n" in DOCKERFILE
    assert f"ARG TORCHVISION={OPTIONS.torchvision}\n" in DOCKERFILE
    assert f"ARG BASE_IMAGE={OPTIONS.base_image}\n" in DOCKERFILE


def test_the_dockerfile_has_one_target_per_stage_that_copies_that_stage_alone() -> None:
    targets = re.split(r"^FROM ", DOCKERFILE, flags=re.M)
    for stage in STAGES:
        (target,) = (text for text in targets if re.match(rf"\w+ AS {stage}\n", text))
        copied = set(re.findall(r"^COPY components/(\w+) ", target, re.M)) - {"common"}
        assert copied == {spec.folder for spec in TASKS.values() if (spec.image or spec.folder) == stage}
        assert "USER 10001:10001" in target


def test_the_dockerfile_needs_no_buildkit_and_sets_no_entrypoint() -> None:
    instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    assert not re.search(r"RUN --mount|COPY --chmod|<<|ENTRYPOINT", instructions)
    assert "# syntax" not in DOCKERFILE


def _saved_by(folder: Path, layout: str) -> None:
    """A program `docker` whose `save` writes an archive as Docker's two formats lay it out."""
    import io
    import json
    import tarfile

    heavy, light = b"heavy" * 200_000, bytes(range(256)) * 40
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        if layout == "older":
            add("a/layer.tar", heavy)
            add("b/layer.tar", light)
            link = tarfile.TarInfo("c/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
            archive.addfile(link)
            layers = [["a/layer.tar", "b/layer.tar"], ["c/layer.tar"]]
        else:
            add("blobs/sha256/aa", gzip.compress(heavy))
            add("blobs/sha256/bb", light)
            layers = [["blobs/sha256/aa", "blobs/sha256/bb"], ["blobs/sha256/aa"]]
        names = ["r/untaint-warmup:t", "r/untaint-split:t"]
        record = [{"RepoTags": [name], "Layers": paths} for name, paths in zip(names, layers, strict=True)]
        add("manifest.json", json.dumps(record).encode())
    (folder / "saved.tar").write_bytes(buffer.getvalue())
    (folder / "docker").write_text(f"#!/bin/sh\ncat {folder}/saved.tar\n")
    (folder / "docker").chmod(0o755)


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_compressed_sizes_count_a_shared_layer_in_each_image_and_once_in_all(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _saved_by(tmp_path, layout)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    packed, together = compressed_sizes("r", "t", ["warmup", "split"])
    heavy = len(gzip.compress(b"heavy" * 200_000))
    # The length of gzip's own header may differ by a few bytes.
    assert packed["split"] == pytest.approx(heavy, abs=20)
    assert packed["split"] < packed["warmup"] == together


def test_an_image_that_is_not_there_is_told_with_what_docker_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho no such image >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ConfigError, match="no such image"):
        compressed_sizes("r", "t", ["split"])
