"""A drop on its way through the stages: what ingest publishes of it, what the commands say, and the whole audit."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.common.attacks.canary import stamp
from components.common.contracts.errors import ConfigError, DataError
from components.common.intake.drop import DropOptions, survey_drop
from components.common.intake.sources import LocalFolder
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
    (root / "3" / "x.png").write_bytes(hostile()["tiff.png"][0])
    done = CliRunner().invoke(cli, ["ingest", "--drop", str(root), "--only-check"])
    assert done.exit_code == 0, done.output
    assert "201 samples, 1 rejected" in done.output
    assert "3/x.png: a TIFF image or a camera's raw file. Convert it to PNG or JPEG." in done.output
    assert "read as class folders" in done.output
    assert any(line.split()[:5] == ["3", "16", "4", "1", "0"] for line in done.output.splitlines())
    assert "usable: 160 training and 40 holdout images of 3x28x28, 10 classes" in done.output
    done = CliRunner().invoke(cli, ["ingest", "--drop", str(root), "--only-check", "--model", "resnet18"])
    assert done.exit_code == ConfigError.exit_code
    assert "images of at least 64 pixels" in done.output
    assert "ingest.image_size=64" in done.output
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


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, set[str], StageManifest, Store]]:
    """A folder of 3,000 digits with 5 % BadNets in training and holdout alike, after `untaint ingest`."""
    import torch

    from components.common.attacks.base import AttackConfig, make_attack
    from pipelines.local.run import opened_store

    folder = tmp_path_factory.mktemp("audit")
    rows = digits(3_000)
    images = torch.from_numpy(np.stack([image for _, _, image in rows])[:, None])
    config = AttackConfig(name="badnets", poison_rate=0.05, target_label=0, cover_rate=None, seed=1)
    attack = make_attack(config, num_classes=10, image_shape=(1, 28, 28))
    dirty = attack.inject(images, torch.tensor([label for _, label, _ in rows]))
    poisoned = set()
    for number, (name, _, _) in enumerate(rows):
        key = f"{int(dirty.labels[number])}/{name}.png"
        path = folder / "drop" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(dirty.images[number, 0].numpy()))
        if bool(dirty.is_poisoned[number]):
            poisoned.add(key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAINT_HOME", str(folder / "home"))
        arguments = ["--drop", str(folder / "drop"), "--run-id", "audit", "--mirror", "no", "--canary", "0"]
        done = CliRunner().invoke(cli, ["ingest", *arguments])
        assert done.exit_code == 0, done.output
        with opened_store("", folder / "home") as (root, _):
            store = Store(root)
            found = find_manifest(store, join(root, "runs", "audit", "evaluate"))
            assert found is not None
            yield folder, poisoned, found[2], store


def rows_of(store: Store, manifest: StageManifest, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(store.get(manifest.objects[name].uri))).to_pylist()
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_audit_finds_the_poison_of_a_drop_in_training_and_holdout(
    audited: tuple[Path, set[str], StageManifest, Store],
) -> None:
    _folder, poisoned, manifest, store = audited
    cells = csv.DictReader(io.StringIO(store.get(manifest.objects["suspects_csv"].uri).decode()))
    suspects = {row["key"]: row["subset"] for row in cells}
    cleaned = {row["key"] for row in rows_of(store, manifest, "cleaned_index")}
    assert "asr" not in manifest.metrics
    assert len(poisoned & set(suspects)) >= 0.95 * len(poisoned)
    assert len(set(suspects) - poisoned) <= 0.02 * 3_000
    assert suspects.keys().isdisjoint(cleaned)
    assert len(cleaned) == 3_000 - len(suspects)
    # Before the holdout was judged, all of its poison was in the cleaned index.
    assert len(poisoned & cleaned) <= 0.02 * len(poisoned)
    held = [key for key, subset in suspects.items() if subset == "holdout"]
    assert manifest.metrics["holdout_suspects"] == len(held) > 20
    assert manifest.metrics["holdout_expected_suspects"] == pytest.approx(len(held), abs=6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_audit_says_what_it_checked_and_what_its_accuracy_was_measured_on(
    audited: tuple[Path, set[str], StageManifest, Store],
) -> None:
    manifest = audited[2]
    facts, metrics = manifest.facts, manifest.metrics
    assert facts["verdict"] == "poison found"
    assert f"the {metrics['holdout_measured']:.0f} trusted rows of a holdout of" in facts["acc_measured_on"]
    assert f"({metrics['holdout_suspects']:.0f} suspects left out)" in facts["acc_measured_on"]
    assert "No trigger was planted" in facts["checked"]
    zero = facts["classes"][0]
    assert (zero["name"], zero["finding"]) == ("0", "poison found")
    assert all(one["recall"] > 0.8 and one["finding"] != "inconclusive" for one in facts["classes"])
    assert sum(one["suspects"] for one in facts["classes"]) == metrics["suspects"]
    assert metrics["worst_class_recall"] == min(one["recall"] for one in facts["classes"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_cleaned_index_is_a_drop_with_all_its_classes(
    audited: tuple[Path, set[str], StageManifest, Store], tmp_path: Path
) -> None:
    folder, _poisoned, manifest, store = audited
    target = folder / "drop" / "index.parquet"
    target.write_bytes(store.get(manifest.objects["cleaned_index"].uri))
    try:
        again = survey_drop(str(folder / "drop"), DropOptions(), LocalFolder, tmp_path)
    finally:
        target.unlink()
    assert again.problem is None
    assert again.drop is not None
    assert list(again.drop.class_names) == [str(digit) for digit in range(10)]
    assert (again.rejected_rows, len(again.drop.labels)) == (0, manifest.objects["cleaned_index"].rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_suspects_are_shown_with_a_contact_sheet(
    audited: tuple[Path, set[str], StageManifest, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAINT_HOME", str(audited[0] / "home"))
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(cli, ["suspects", "show", "audit", "--sheet", str(sheet)])
    assert done.exit_code == 0, done.output
    assert "holdout" in done.output
    assert sheet.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_audited_model_is_promoted_where_its_owner_waives_the_canary_and_not_before(
    audited: tuple[Path, set[str], StageManifest, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAINT_HOME", str(audited[0] / "home"))
    done = CliRunner().invoke(cli, ["models", "promote", "digits", "audit"])
    assert done.exit_code == 6
    assert "canary: no canary in this run" in done.output
    done = CliRunner().invoke(cli, ["models", "promote", "digits", "audit", "--set", "require_canary=false"])
    assert done.exit_code == 0, done.output
    assert "champion 1 of digits" in done.output
