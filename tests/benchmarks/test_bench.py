"""The benchmark: its matrices, what it leaves alone, its tables, and one real cell from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import cells as cell_store
from benchmarks.bench import groups_of
from benchmarks.matrix import MATRICES, Matrix, load_matrix, parse_filter, selected
from benchmarks.tables import summary
from components.common.attacks.base import ATTACKS
from components.common.contracts.errors import ConfigError

TINY = {
    "name": "tiny",
    "dataset": "mnist5k",
    "model": "convnet_tiny",
    "train_limit": 300,
    "holdout_limit": 100,
    "attacks": [{"name": "none"}, {"name": "badnets", "poison_rate": 0.1}],
    "seeds": [1, 2],
    "methods": ["undefended", "abl", "spectral"],
    "set": ["control.epochs=2"],
}


def tiny(folder: Path, **changes: object) -> Matrix:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return load_matrix(path)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cell_store, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def cell(method: str, **figures: object) -> dict:
    base = {"dataset": "digits", "train_samples": 4000, "model": "net", "attack": "badnets", "poison_rate": 0.1}
    base |= {"method": method, "seed": 1, "acc": 0.98, "asr": 0.01, "undefended_asr": 1.0, "oracle_acc": 0.98}
    base |= {"auroc": None, "tpr_at_1pct_fpr": None, "flagged_clean": None, "verdict": None}
    return {**base, "seconds": 9.0, "peak_mib": 500.0, "commit": "abc", **figures}


def test_the_quick_matrix_has_every_attack_and_clean_data_and_every_cell_can_be_run() -> None:
    quick = load_matrix(MATRICES / "quick.yaml")
    assert sorted(attack.name for attack in quick.attacks) == sorted([*ATTACKS, "none"])
    assert len({one.name for one in selected(quick, {})}) == 15 * 3 * 5
    assert {quick.parameters(attack, 30)["attack"] for attack in quick.attacks} >= set(ATTACKS)


def test_the_cifar_matrix_says_which_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    cifar = load_matrix(MATRICES / "cifar.yaml")
    monkeypatch.delenv("UNTAINT_TEST_CIFAR10", raising=False)
    with pytest.raises(ConfigError, match="UNTAINT_TEST_CIFAR10"):
        cifar.parameters(cifar.attacks[0], 30)
    monkeypatch.setenv("UNTAINT_TEST_CIFAR10", "/data/of/somebody")
    assert cifar.parameters(cifar.attacks[0], 30)["dataset"] == "parquet:/data/of/somebody"
    one = next(selected(cifar, {}))
    before = one.digest()
    monkeypatch.setenv("UNTAINT_TEST_CIFAR10", "/data/of/another")
    assert one.digest() == before, "the same data elsewhere are the same cell"
    assert "somebody" not in one.name


def test_cells_come_seed_by_seed_and_a_filter_keeps_their_order(tmp_path: Path) -> None:
    cells = list(selected(tiny(tmp_path), {}))
    assert [one.seed for one in cells] == [1] * 6 + [2] * 6
    some = list(selected(tiny(tmp_path), parse_filter(["attack=badnets,seed=1,2", "method=abl"])))
    assert [(one.attack.name, one.seed, one.method) for one in some] == [("badnets", 1, "abl"), ("badnets", 2, "abl")]


@pytest.mark.parametrize("text", ["badnets", "attack=", "model=convnet", "=1"])
def test_a_filter_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        parse_filter([text])


def test_a_filter_for_what_the_matrix_lacks_names_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected values of none, badnets.*found wanet"):
        list(selected(tiny(tmp_path), parse_filter(["attack=wanet"])))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sedes": [1]}, "keys of name, dataset"),
        ({"methods": ["asd"]}, "methods of undefended, oracle"),
        ({"attacks": [{"name": "badnets"}]}, "poison_rate above 0"),
        ({"attacks": [{"name": "none", "poison_rate": 0.1}]}, "none for 'none'"),
        ({"attacks": [{"poison_rate": 0.1}]}, "an attack with name"),
        ({"attacks": [{"name": "bpp", "poison_rate": 0.1, "options": o} for o in ("", "levels=2")]}, "bpp at 0.1"),
        ({"seeds": 1}, "a list under seeds"),
    ],
)
def test_a_wrong_matrix_says_what_is_wrong(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny(tmp_path, **changes)


def test_a_setting_that_no_stage_has_is_told_before_anything_runs(tmp_path: Path, results: Path) -> None:
    with pytest.raises(ConfigError, match="isolation"):
        groups_of(selected(tiny(tmp_path, set=["split.isolation=0.1"]), {}), again=False)


def test_a_measured_cell_is_left_alone_until_its_settings_change(tmp_path: Path, results: Path) -> None:
    cells = list(selected(tiny(tmp_path), {}))
    assert [one.state() for one in cells] == ["missing"] * 12
    done = {"matrix": "tiny", "dataset": "mnist5k", "attack": "none", "poison_rate": 0.0, "seed": 1, "method": "abl"}
    cell_store.write({**done, "config_digest": cells[1].digest()})
    assert cells[1].state() == "measured"
    waiting = groups_of(cells, again=False)
    assert [one.method for one in waiting[0].cells] == ["undefended", "spectral"]
    assert len(groups_of(cells, again=True)[0].cells) == 3
    longer = list(selected(tiny(tmp_path, set=["control.epochs=3"]), {}))
    assert longer[1].state() == "stale"
    other = list(selected(tiny(tmp_path, set=["control.epochs=2", "unlearn.steps=7"]), {}))
    assert other[1].state() == "measured", "what only the pipeline uses does not touch a comparator"


def test_options_of_an_attack_make_another_cell_and_none_leave_it_as_it_was(tmp_path: Path, results: Path) -> None:
    def digests(**more: str) -> list[str]:
        matrix = tiny(tmp_path, attacks=[{"name": "bpp", "poison_rate": 0.1, **more}])
        return [one.digest() for one in selected(matrix, {})]

    assert digests() == digests(options="")
    assert not set(digests()) & set(digests(options="levels=2"))
    (cell, *_) = selected(tiny(tmp_path, attacks=[{"name": "bpp", "poison_rate": 0.1, "options": "levels=2"}]), {})
    assert cell.matrix.parameters(cell.attack, 1)["ingest_settings"]["attack_options"] == "levels=2"


def test_asr_counts_only_where_the_undefended_model_has_a_backdoor() -> None:
    cells = [
        cell("untaint", seed=1, asr=0.02),
        cell("untaint", seed=2, asr=0.04),
        cell("untaint", seed=1, asr=0.5, attack="wanet", undefended_asr=0.4),
        cell("abl", seed=1, asr=0.9),
    ]
    models = summary(cells).partition("What was found")[0]
    lines = {line.split(" |")[0]: line for line in models.splitlines()}
    assert "98.0 ± 0.0 / 3.0 ± 1.4 (4.0)" in lines["| badnets 10 %"]
    assert "| 98.0 / 90.0 (90.0) |" in lines["| badnets 10 %"]
    assert lines["| wanet 10 % (undefended 40.0 %, not scored)"].endswith("| 1 | 98.0 / - | - |")
    assert lines["| **mean over scored cells**"].endswith("| 2 | 98.0 / 3.0 (4.0) | 98.0 / 90.0 (90.0) |")


@pytest.mark.timeout(900)
def test_a_real_cell_is_measured_and_then_left_alone(tmp_path: Path) -> None:
    tiny(tmp_path)

    def bench(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.bench", str(tmp_path / "tiny.yaml"), *words],
            cwd=Path(__file__).parents[2],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                "UNTAINT_HOME": str(tmp_path),
                "UNTAINT_BENCH_RESULTS": str(tmp_path / "results"),
            },
            capture_output=True,
            text=True,
            timeout=400,
        )

    first = bench("--only", "attack=badnets", "seed=1")
    logs = "".join(path.read_text() for path in (tmp_path / "bench" / "logs").rglob("*.log"))
    assert first.returncode == 0, first.stdout + first.stderr + logs[-3000:]
    lines = (tmp_path / "results" / "tiny.jsonl").read_text().splitlines()
    cells = {cell["method"]: cell for cell in map(json.loads, lines)}
    assert sorted(cells) == ["abl", "spectral", "undefended"]
    for found in cells.values():
        assert found["undefended_asr"] == cells["undefended"]["asr"]
        assert found["oracle_acc"] is None
        assert found["verdict"] is None
        assert 0.0 <= found["acc"] <= 1.0
        assert found["train_samples"] == 300
    assert cells["undefended"]["auroc"] is None
    assert 0.0 < cells["spectral"]["flagged_clean"] <= 0.5
    assert cells["spectral"]["seconds"] > cells["undefended"]["seconds"], "two trainings"
    second = bench("--only", "attack=badnets", "seed=1")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "3 cells, of them 3 measured" in second.stdout
    assert "[1/1]" not in second.stdout
