"""A drop on its way through the stages: what ingest publishes of it, what the commands say, and the whole audit."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.common.attacks.canary import stamp
from components.common.contracts.errors import ConfigError, DataError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import find_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.parquet import decode_table
from components.common.tables.tables import REJECTED, SAMPLE_INDEX
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage
from pipelines.cli.main import cli
from pipelines.views.suspects import read_images
from tests.components.common.intake.drop_samples import class_folders, csv_list, digits, encode, hostile


def test_ingest_publishes_a_drop_with_what_it_left_out(store: Store, tmp_path: Path) -> None:
    root = csv_list(tmp_path / "d")
    evil = "img/=cmd\u202ed.png"
    with (root / "index.csv").open("a", encoding="utf-8") as file:
        file.write(f"{evil},digit 3\r\nimg/page.png,digit 3\r\n")
    (root / "img" / "page.png").write_bytes(hostile()["page.png"][0])
    address = join(store.root, "drop")
    for path in root.rglob("*.*"):
        store.put(f"{address}/{path.relative_to(root).as_posix()}", path.read_bytes())
    config = IngestConfig(dataset=f"drop:{address}", attack="none", mirror="no")
    result = run_stage(config, store.root, "r")
    assert result.truth is None
    manifest = result.manifest
    assert set(manifest.objects) == {"pixels", "sample_index", "rejected"}
    assert manifest.metrics["rejected_samples"] == 2
    ref = manifest.objects["rejected"]
    rejected = decode_table(store.get(ref.uri, ref.sha256), REJECTED, subject="r").to_pylist()
    assert {row["reason"] for row in rejected} == {"unsafe_key", "format"}
    assert all(value.isprintable() for row in rejected for value in row.values())
    ref = manifest.objects["sample_index"]
    index = decode_table(store.get(ref.uri, ref.sha256), SAMPLE_INDEX, subject="r")
    assert index.num_rows == 200
    # The published pixels are those of the digit that the index names.
    known = {f"{address}/img/{name}.png": image for name, _, image in digits(200)}
    rows = [0, 57, 199]
    for row, image in zip(rows, read_images(store, "r", rows), strict=True):
        assert np.array_equal(image[0], known[index["uri"][row].as_py()])
    mean = np.mean([known[uri] for uri in index["uri"].to_pylist()[:160]]) / 255
    assert manifest.facts["mean"] == [pytest.approx(mean, abs=1e-6)]
    # Once published, a second attempt has nothing to do.
    assert run_stage(config, store.root, "r").sha256 == result.sha256


def test_a_clean_drop_has_an_empty_list_of_rejected_samples(store: Store, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    run_stage(IngestConfig(dataset=f"drop:{root}", attack="none"), store.root, "r")
    found = find_manifest(store, join(store.root, "runs", "r", "ingest"))
    assert found is not None
    assert found[2].objects["rejected"].rows == 0
    assert found[2].facts["location"] == str(root)


def test_a_refused_drop_publishes_nothing(store: Store, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", 30)
    with pytest.raises(DataError, match="at least 10 of each class"):
        run_stage(IngestConfig(dataset=f"drop:{root}", attack="none"), store.root, "r")
    assert list(store.list(join(store.root, "runs"))) == []


def test_an_attack_on_a_drop_must_be_asked_for(store: Store, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    with pytest.raises(ConfigError, match="attack_drop set to true"):
        IngestConfig(dataset=f"drop:{root}")
    config = IngestConfig(dataset=f"drop:{root}", attack_drop=True, attack="badnets", poison_rate=0.1)
    result = run_stage(config, store.root, "r")
    assert result.truth is not None
    assert "images" in {ref.kind for ref in result.manifest.objects.values()}


def test_a_canary_is_planted_aside_and_told_to_nobody_who_defends(store: Store, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", 400)
    plain = run_stage(IngestConfig(dataset=f"drop:{root}", attack="none"), store.root, "plain")
    config = IngestConfig(dataset=f"drop:{root}", attack="none", canary_ratio=0.02)
    result = run_stage(config, store.root, "canary")
    assert plain.truth is None
    assert result.truth is not None
    told = result.truth.manifest
    assert (told.objects, told.facts["attack"]) == ({}, {}), "of a drop there is no truth"
    record = told.facts["canary"]
    n_train = plain.manifest.facts["n_train"]
    assert len(record["rows"]) == round(0.02 * n_train)
    assert "canary_ratio" not in result.manifest.config
    assert str(record["rows"])[1:-1] not in result.manifest.to_bytes().decode()

    def read(name: str, manifest: StageManifest) -> bytes:
        return store.get(manifest.objects[name].uri)

    before, after = (np.load(io.BytesIO(read("pixels", one.manifest))) for one in (plain, result))
    changed = np.flatnonzero((before != after).any(axis=(1, 2, 3)))
    assert changed.tolist() == record["rows"]
    assert np.array_equal(after[changed], stamp(before[changed], record))
    first, second = (
        decode_table(read("sample_index", one.manifest), SAMPLE_INDEX, subject="i") for one in (plain, result)
    )
    assert first.drop_columns("given_label").equals(second.drop_columns("given_label"))
    labels = first["given_label"].to_numpy().copy()
    assert labels[changed].tolist() == record["labels"]
    labels[changed] = record["label"]
    assert second["given_label"].to_numpy().tolist() == labels.tolist()
    # A second attempt finds what the first has done.
    assert run_stage(config, store.root, "canary").truth is not None


def test_a_canary_needs_a_drop_that_is_taken_as_it_is(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    for wrong in (
        {"dataset": "mnist5k", "attack": "none"},
        {"dataset": f"drop:{root}", "attack": "badnets", "attack_drop": True},
    ):
        with pytest.raises(ConfigError, match="a drop into which no attack is injected"):
            IngestConfig(**wrong, canary_ratio=0.02)
    with pytest.raises(ConfigError, match=r"\[0, 0.1\]"):
        IngestConfig(dataset=f"drop:{root}", attack="none", canary_ratio=0.2)


def test_only_check_counts_by_reason(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    (root / "3" / "x.png").write_bytes(hostile()["image.gif"][0])
    done = CliRunner().invoke(cli, ["ingest", "--drop", str(root), "--only-check"])
    assert done.exit_code == 0, done.output
    assert "201 samples, 1 rejected" in done.output
    assert "3/x.png: format" in done.output
    assert "usable: 160 training and 40 holdout images of 3x28x28, 10 classes" in done.output
    for number in range(20):
        (root / "3" / f"y{number}.png").write_bytes(b"no image")
    done = CliRunner().invoke(cli, ["ingest", "--drop", str(root), "--only-check"])
    assert done.exit_code == DataError.exit_code
    assert "21  format" in done.output


@pytest.mark.parametrize("option", ["--drop", "--holdout"])
@pytest.mark.parametrize("name", ["none", "file"])
def test_a_folder_that_is_none_starts_no_run(
    option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("x")
    done = CliRunner().invoke(cli, ["ingest", "--drop", str(tmp_path), option, str(tmp_path / name)])
    assert done.exit_code == ConfigError.exit_code
    assert ("a file" if name == "file" else "nothing of that name") in str(done.output) + str(done.exception)
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_audit_finds_the_poison_of_a_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder with 5 % BadNets to suspects, contact sheet and cleaned index."""
    import torch

    from components.common.attacks.base import AttackConfig, make_attack

    rows = digits(3_000)
    images = torch.from_numpy(np.stack([image for _, _, image in rows])[:, None])
    labels = torch.tensor([label for _, label, _ in rows])
    config = AttackConfig(name="badnets", poison_rate=0.05, target_label=0, cover_rate=None, seed=1)
    dirty = make_attack(config, num_classes=10, image_shape=(1, 28, 28)).inject(images[:2_000], labels[:2_000])
    poisoned = set()
    for number, (name, label, image) in enumerate(rows):
        if number < 2_000:
            image, label = dirty.images[number, 0].numpy(), int(dirty.labels[number])
        key = f"{label}/{name}.png"
        path = tmp_path / ("train" if number < 2_000 else "holdout") / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
        if number < 2_000 and bool(dirty.is_poisoned[number]):
            poisoned.add(key)
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    arguments = ["--drop", str(tmp_path / "train"), "--holdout", str(tmp_path / "holdout"), "--run-id", "audit"]
    done = CliRunner().invoke(cli, ["ingest", *arguments, "--mirror", "no"])
    assert done.exit_code == 0, done.output
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(cli, ["suspects", "show", "audit", "--sheet", str(sheet)])
    assert done.exit_code == 0, done.output
    assert sheet.read_bytes().startswith(b"\x89PNG")
    from pipelines.local.run import opened_store

    with opened_store("", tmp_path / "home") as (root, _):
        store = Store(root)
        found = find_manifest(store, join(root, "runs", "audit", "evaluate"))
        assert found is not None
        objects = found[2].objects
        cells = csv.DictReader(io.StringIO(store.get(objects["suspects_csv"].uri).decode()))
        suspects = {row["key"] for row in cells}
        cleaned = pq.read_table(io.BytesIO(store.get(objects["cleaned_index"].uri)))["key"].to_pylist()
    assert "asr" not in found[2].metrics
    assert len(poisoned & suspects) >= 0.9 * len(poisoned)
    assert len(suspects - poisoned) <= 0.02 * 2_000
    assert len(cleaned) == 2_000 - len(suspects)
    assert suspects.isdisjoint(cleaned)
