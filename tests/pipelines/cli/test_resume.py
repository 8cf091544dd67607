"""Resuming and naming runs, and what is refused before a first stage starts: nothing changes, and the advice works."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from components.common.contracts.errors import ConfigError, DataError
from components.common.retraining.claims import model_uri
from components.common.retraining.drops import deliver
from components.common.storage.store import Store
from components.ingest.stage import run_stage
from pipelines.cli.main import cli
from pipelines.dag.settings import default_parameters, stage_configs
from pipelines.local.preflight import check_agreement, check_images, check_names
from pipelines.local.records import ORDER, PLAN, Plan, keep_record, load_plan
from pipelines.local.retrain import Order

Called = Callable[..., Result]
Folder = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def called(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Called:
    monkeypatch.setenv("UNTAINT_STORE", store.root)
    return lambda *arguments: CliRunner().invoke(cli, arguments, prog_name="untaint")


@pytest.fixture
def photos(tmp_path: Path, many_digits: tuple[Tensor, Tensor]) -> Path:
    """A folder of 300 real digits of 28 pixels as class folders."""
    for row, (image, label) in enumerate(zip(many_digits[0][:300], many_digits[1][:300], strict=True)):
        path = tmp_path / "photos" / str(int(label)) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image[0].numpy())).save(buffer, format="PNG")
        path.write_bytes(buffer.getvalue())
    return tmp_path / "photos"


def refused(answer: Result, code: int = ConfigError.exit_code) -> str:
    """The text of a refusal: four lines on standard error, and nothing was said before."""
    assert answer.exit_code == code, answer.output
    assert [line[:12].strip() for line in answer.stderr.splitlines()] == [
        *("problem:", "expected:", "found:", "what to do:")
    ], answer.stderr
    assert answer.stdout == ""
    return answer.stderr


def started(home: Path) -> list[str]:
    return [path.name for path in (home / "runs").glob("*")]


def test_a_mistyped_resume_starts_nothing_and_names_the_run_that_was_meant(called: Called, home: Path) -> None:
    keep_record(home, "20260131-120000-1f2e", PLAN, Plan(parameters=default_parameters()))
    for command in (("run",), ("schedule", "run-once")):
        text = refused(called(*command, "--resume", "20260131-120000-1f2f"))
        assert "20260131-120000-1f2e" in text
        assert started(home) == ["20260131-120000-1f2e"]


def test_a_run_is_resumed_by_the_command_that_started_it(called: Called, home: Path) -> None:
    keep_record(home, "one", PLAN, Plan(parameters=default_parameters()))
    keep_record(home, "other", ORDER, Order(name="m", drops="s3://bucket/drops", store="", parameters={}))
    assert "`untaint schedule run-once --resume other`" in refused(called("run", "--resume", "other"))
    assert "`untaint run --resume one`" in refused(called("schedule", "run-once", "--resume", "one"))


@pytest.mark.parametrize("command", ["run", "ingest --drop .", "schedule run-once --drops s3://bucket/drops"])
def test_the_name_of_a_run_that_exists_is_refused_with_the_way_to_resume_it(
    command: str, called: Called, home: Path
) -> None:
    keep_record(home, "mine", PLAN, Plan(parameters=default_parameters()))
    text = refused(called(*command.split(), "--run-id", "mine"))
    assert "`untaint run --resume mine` goes on with it" in text


def test_a_name_that_has_results_in_the_store_is_refused(called: Called, home: Path, store: Store) -> None:
    store.put(f"{store.root}/runs/mine/ingest/x", b"of another machine")
    assert "results of one" in refused(called("run", "--run-id", "mine"))
    assert started(home) == []


def test_naming_and_resuming_at_once_is_refused(called: Called, home: Path) -> None:
    keep_record(home, "one", PLAN, Plan(parameters=default_parameters()))
    assert "--run-id names a new one" in refused(called("run", "--resume", "one", "--run-id", "two"))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--model", "resnet99"], "'resnet99'"),
        (["--attack", "badnet"], "'badnet'"),
        (["--dataset", "mnist"], "'mnist'"),
        (["--dataset", "parquet:s3://b/x"], "3 to 63"),
        (["--set", "control.model=resnet99"], "'resnet99'"),
        (["--poison-rate", "2"], "poison_rate"),
    ],
)
def test_names_and_ranges_are_checked_before_the_first_stage(
    options: list[str], found: str, called: Called, home: Path
) -> None:
    assert found in refused(called("run", *options))
    assert not home.exists()


def test_a_model_for_larger_images_is_refused_and_the_advice_works(called: Called, home: Path) -> None:
    text = refused(called("run", "--model", "resnet18"))
    assert "model 'resnet18'" in text
    assert not home.exists()
    smaller, larger = "--model convnet", "--set ingest.image_size=64"
    assert smaller in text
    assert larger in text
    check_names({**default_parameters(), "model": "convnet"})
    check_names({**default_parameters(), "model": "resnet18", "ingest_settings": {"image_size": 64}})


@pytest.mark.parametrize("form", ["folder", "prefix", "parquet"])
def test_the_size_of_ones_own_images_is_checked_before_the_first_stage(
    form: str, called: Called, home: Path, photos: Path, store: Store
) -> None:
    where = ["ingest", "--drop", str(photos)]
    if form == "prefix":
        deliver(store, photos, f"{store.root}/photos")
        where = ["ingest", "--drop", f"{store.root}/photos"]
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = [{"bytes": path.read_bytes(), "path": None} for path in photos.rglob("*.png")]
        (photos.parent / "shards").mkdir()
        pq.write_table(pa.table({"image": data, "label": [0] * len(data)}), photos.parent / "shards" / "train.parquet")
        where = ["run", "--attack", "none", "--dataset", f"parquet:{photos.parent / 'shards'}"]
    text = refused(called(*where, "--model", "resnet18"))
    assert "found:      28" in text
    assert started(home) == []


def test_images_of_several_sizes_are_left_to_the_stage_that_reads_them_all(photos: Path, store: Store) -> None:
    """The most frequent size stays, and only a reading of all tells which that is."""
    for number in range(30):
        Image.new("L", (64, 64)).save(photos / "0" / f"larger-{number}.png")
    parameters = {**default_parameters(), "dataset": f"drop:{photos}", "attack": "none", "model": "resnet18"}
    check_images(store, "new", parameters)


def test_a_run_whose_data_are_read_is_resumed_without_them_and_still_checks_its_model(
    called: Called, home: Path, photos: Path, store: Store
) -> None:
    parameters = {**default_parameters(), "dataset": f"drop:{photos}", "attack": "none"}
    keep_record(home, "half", PLAN, Plan(parameters=parameters, store=store.root))
    run_stage(stage_configs(parameters)["ingest"], store.root, "half")
    shutil.rmtree(photos)
    check_images(store, "half", parameters)
    assert "found:      28" in refused(called("run", "--resume", "half", "--model", "resnet18"))


def test_a_folder_that_is_not_there_is_refused_before_the_first_stage(
    called: Called, home: Path, tmp_path: Path
) -> None:
    text = refused(called("run", "--attack", "none", "--dataset", f"parquet:{tmp_path}/nowhere"), DataError.exit_code)
    assert f"{tmp_path}/nowhere" in text
    assert started(home) == []


def test_options_of_a_refused_resume_change_nothing_and_the_advice_works(
    called: Called, home: Path, store: Store
) -> None:
    parameters = default_parameters() | {"train_limit": 200, "ingest_settings": {"holdout_limit": 100}}
    folder = keep_record(home, "half", PLAN, Plan(parameters=parameters, store=store.root))
    run_stage(stage_configs(parameters)["ingest"], store.root, "half")
    before = (folder / "plan.json").read_bytes()
    text = refused(called("run", "--resume", "half", "--set", "ingest.image_size=64", "--model", "resnet18"))
    assert "stage ingest" in text
    assert "image_size 0, not 64" in text
    assert "another attack" in refused(called("run", "--resume", "half", "--attack", "wanet"))
    assert (folder / "plan.json").read_bytes() == before
    # What is not done yet may change, and without the options that were refused the run goes on.
    plan = load_plan(home, "half")
    assert plan is not None
    check_agreement(store, "half", plan.parameters)
    check_agreement(store, "half", {**plan.parameters, "model": "convnet_tiny"})


def test_a_model_that_does_not_exist_leaves_no_claim(called: Called, home: Path, store: Store, photos: Path) -> None:
    deliver(store, photos, f"{store.root}/drops/2026-11-20")
    text = refused(called("schedule", "run-once", "--drops", f"{store.root}/drops", "--set", "warmup.model=resnet99"))
    assert "'resnet99'" in text
    assert list(store.list(f"{model_uri(store.root, 'model')}/")) == []
    assert started(home) == []
