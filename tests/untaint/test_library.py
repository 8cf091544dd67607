"""The library on a few hundred small images: what a notebook gets, and that it is what the pipeline computes."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import untaint
from components.common.contracts.errors import ConfigError, DataError
from components.common.runs.publish import find_manifest
from components.common.storage.store import Store
from components.common.tables.gate import sharing_gate

README = Path(__file__).parents[2] / "README.md"
QUICK: dict[str, Any] = {
    "warmup_epochs": 1,
    "finetune_epochs": 1,
    "model": "convnet_tiny",
    "settings": {"unlearn.steps": 2, "unlearn.class_steps": 2, "warmup.mixing_rounds": 1, "warmup.batch_size": 32},
}
WORDS = ("left", "right", "up", "down")


def stripes(count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar whose place is the class, uint8 [n, 16, 16], and the class in a word."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (count, 16, 16), dtype=np.uint8)
    labels = np.arange(count) % 4
    for label in range(4):
        images[labels == label, :, 4 * label : 4 * label + 3] = 255
    return images, np.array(WORDS)[labels]


@pytest.fixture(scope="module")
def result() -> untaint.Result:
    return untaint.defend(*stripes(), **QUICK)


def test_the_result_has_verdict_suspects_model_and_report(result: untaint.Result) -> None:
    _, labels = stripes()
    assert result.verdict
    assert result.acc is not None
    assert 0 <= result.acc <= 1
    assert result.suspects.column_names == ["row", "label", "predicted_label", "suspicion", "reasons", "subset"]
    # Positions are those of the arrays that were given, wherever the holdout came from.
    for row in result.suspects.to_pylist():
        assert row["label"] == labels[row["row"]]
    assert result.suspects["suspicion"].to_pylist() == sorted(result.suspects["suspicion"].to_pylist(), reverse=True)
    assert sorted(result.model.class_names) == sorted(WORDS)
    assert result.model.predict(stripes()[0][:3, None]).shape == (3, 4)
    assert result.report_html.startswith("<!doctype html>")
    assert len(result.suspects.to_pandas()) == len(result.suspects)


def test_a_notebook_shows_the_report_in_a_frame_that_runs_nothing(result: untaint.Result) -> None:
    shown = result._repr_html_()
    assert "<iframe sandbox srcdoc=" in shown
    inner = re.search(r'srcdoc="([^"]*)"', shown)
    assert inner is not None
    assert html.unescape(inner[1]) == result.report_html
    assert result.verdict in repr(result)


def test_a_saved_model_loads_and_answers_alike(result: untaint.Result, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "model", ["safetensors", "card"])
    assert {path.name for path in paths} == {"model.safetensors", "config.json", "README.md"}
    images = stripes()[0][:5, None]
    assert np.array_equal(untaint.load(tmp_path / "model").predict(images), result.model.predict(images))


def test_the_pipelines_stages_on_a_real_store_give_the_same_bits(
    result: untaint.Result, store: Store, tmp_path: Path
) -> None:
    from untaint import defence

    images, labels = stripes()
    numbers, names = defence._classes(labels, len(images), None)
    order, n_train = defence._divided(numbers, names, 0.2, 0)
    pixels = defence._pixels(images)
    np.savez(tmp_path / "a.npz", images=pixels[order], labels=numbers[order], class_names=names, n_train=n_train)
    own = {
        "ingest": {"dataset": f"npz:{tmp_path}/a.npz", "mirror": "no", "attack": "none"},
        "warmup": {"model": "convnet_tiny", "epochs": 1},
        "finetune": {"epochs": 1},
    }
    with sharing_gate():
        defence._stages(
            defence._configs(own, 0, {"evaluate.formats": "safetensors", **QUICK["settings"]}), store.root, "run"
        )
    found = find_manifest(store, f"{store.root}/runs/run/evaluate")
    assert found is not None
    assert found[2].facts["verdict"] == result.verdict
    assert found[2].metrics["suspects"] == result.suspects["subset"].to_pylist().count("train")
    published = store.get(found[2].objects["model_safetensors"].uri)
    assert published == result.save(tmp_path / "mine", ["safetensors"])[0].read_bytes()


def test_the_callers_random_numbers_and_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from untaint.defence import _undisturbed

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)

    with _undisturbed():
        torch.manual_seed(9)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    assert torch.equal(torch.rand(3), wanted)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


def test_a_folder_of_images_is_audited_and_suspects_are_named_by_their_files(tmp_path: Path) -> None:
    from PIL import Image

    images, labels = stripes(160)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "drop" / label / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "drop" / "left" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n, and nothing behind it")
    audited = untaint.audit(tmp_path / "drop", **QUICK)
    assert audited.suspects.column_names[0] == "key"
    assert all((tmp_path / "drop" / key).is_file() for key in audited.suspects["key"].to_pylist())
    assert set(audited.model.class_names) == set(WORDS)


@pytest.mark.parametrize(
    ("change", "problem", "words"),
    [
        ({"images": np.zeros((240, 16, 16), np.float32)}, ConfigError, "uint8"),
        ({"images": np.zeros((240, 16, 12), np.uint8)}, ConfigError, "square"),
        ({"labels": np.zeros(7, int)}, ConfigError, "one for each image"),
        ({"labels": np.arange(240) % 4, "class_names": ["a", "b"]}, ConfigError, "from 0 to 1"),
        ({"labels": np.arange(240)}, DataError, "at least 10 of each class"),
        ({"holdout": 1.5}, ConfigError, "share"),
        ({"settings": {"steps": 3}}, ConfigError, "STAGE.NAME"),
        ({"settings": {"unlearn.stepz": 3}}, ConfigError, "steps"),
        ({"model": "convnetz"}, ConfigError, "convnet"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_trained(
    change: dict[str, Any], problem: type[Exception], words: str
) -> None:
    images, labels = stripes()
    with pytest.raises(problem, match=words):
        untaint.defend(**{"images": images, "labels": labels, **QUICK, **change})


@pytest.mark.parametrize("shape", [(240, 1, 16, 16), (240, 16, 16, 1), (240, 3, 16, 16), (240, 16, 16, 3)])
def test_images_are_taken_with_the_channels_on_either_side(shape: tuple[int, ...]) -> None:
    from untaint.defence import _pixels

    channels = 3 if 3 in shape else 1
    assert _pixels(np.zeros(shape, np.uint8)).shape == (240, channels, 16, 16)


def test_importing_the_library_imports_neither_torch_nor_kubeflow() -> None:
    code = (
        "import sys, untaint\n"
        "assert untaint.__version__ and 'defend' in dir(untaint)\n"
        "assert not {'torch', 'kfp', 'boto3', 'pandas'} & set(sys.modules), 'heavy'\n"
        "untaint.defend\n"
        "assert 'kfp' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-1000:]


def test_the_five_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) == 5
    monkeypatch.chdir(tmp_path)
    # The lines as they are, with settings under which they take seconds.
    monkeypatch.setattr(untaint, "defend", partial(untaint.defend, **QUICK), raising=False)
    images, labels = stripes(120)
    names: dict[str, Any] = {"images": images[:, None], "labels": labels}
    exec(compile(blocks[0], "README.md", "exec"), names)  # noqa: S102 - our own words
    assert (tmp_path / "model" / "model.pt2").is_file()
