"""``untaint export`` and ``predict`` on a published model: from the store, as a champion, from a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from components.common.classifier import Classifier, Provenance, load
from components.common.exporters import export
from components.common.models import ModelSpec, build_model
from components.common.retraining.champions import champion_of, move
from components.common.retraining.records import Champion
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store
from pipelines.cli.main import cli
from tests.components.common.intake.drop_samples import encode, hostile

NAMES = ("cat", "dog\x1b[31m", "<b>owl</b>")


def trained(channels: int = 1) -> Classifier:
    torch.manual_seed(1)
    spec = ModelSpec(num_classes=3, channels=channels, image_size=16, mean=(0.5,) * channels, std=(0.25,) * channels)
    return Classifier(
        module=build_model("convnet_tiny", spec).eval(),
        architecture="convnet_tiny",
        spec=spec,
        image_shape=(channels, 16, 16),
        class_names=NAMES,
        provenance=Provenance(run_id="run"),
    )


def publish_run(store: Store, run_id: str, formats: list[str], classifier: Classifier) -> tuple[str, str]:
    files = {
        name: LocalObject(suffix=".bin", kind="model", data=data) for name, data in export(classifier, formats).items()
    }
    draft = StageManifest(
        stage="evaluate", run_id=run_id, key=run_id, config={}, parents={}, code_version="c", objects={}
    )
    uri, sha256, _ = publish(store, join(store.root, "runs", run_id, "evaluate"), draft, files)
    return uri, sha256


@pytest.fixture
def published(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path / "home"))
    uri, sha256 = publish_run(store, "run", ["safetensors", "card"], trained())
    values: dict[str, Any] = dict.fromkeys(Champion.__dataclass_fields__, "")
    values |= {"name": "pets", "number": 0, "run_id": "run", "evaluation_uri": uri, "evaluation_sha256": sha256}
    values |= {"acc": 0.9, "suspect_share": 0.0, "model_bytes": 1, "gates": []}
    move(store, Champion(**values), champion_of(store, "pets"))
    return store


def called(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_run_is_exported_from_its_store_and_loads(published: Store, tmp_path: Path) -> None:
    done = called("export", "run", "--to", tmp_path / "out", "--store", published.root)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert load(tmp_path / "out").class_names == NAMES
    address = f"{published.root}/runs/run"
    done = called("export", address, "--to", tmp_path / "two", "--formats", "card", "--json")
    assert json.loads(done.output) == {"run_id": "run", "files": {"README.md": str(tmp_path / "two" / "README.md")}}


def test_a_format_that_the_run_did_not_publish_is_made_from_its_weights(published: Store, tmp_path: Path) -> None:
    done = called("export", "run", "--to", tmp_path, "--formats", "pt2", "--store", published.root)
    assert done.exit_code == 0, done.output
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        wanted = trained().module(images)
    assert torch.allclose(torch.export.load(tmp_path / "model.pt2").module()(images), wanted, atol=1e-5)


def test_the_champion_is_exported_by_its_name(published: Store, tmp_path: Path) -> None:
    done = called("models", "export", "pets", "--to", tmp_path / "out", "--store", published.root)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert called("models", "export", "cats", "--to", tmp_path, "--store", published.root).exit_code == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nobody"], 2, "finished evaluate stage"),
        (["run", "--formats", "tflite"], 2, "card, onnx, pt2, safetensors"),
        (["../run"], 2, "run id"),
    ],
)
def test_what_cannot_be_exported_says_why(
    published: Store, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = called("export", *words, "--to", tmp_path / "out", "--store", published.root)
    assert done.exit_code == code
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_a_damaged_object_is_not_exported(published: Store, tmp_path: Path) -> None:
    (uri,) = (info.uri for info in published.list(f"{published.root}/runs/run/evaluate/model_safetensors"))
    data = published.get(uri)
    published.put(uri, data[:-1] + bytes([data[-1] ^ 1]))
    done = called("export", "run", "--to", tmp_path / "out", "--store", published.root)
    assert done.exit_code == 3
    assert "sha256" in done.output
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A grey image of the model's size, a larger one, and a colour image whose channels are equal."""
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((16, 16), (40, 30), (16, 16, 1))]
    made[2] = np.repeat(made[2], 3, axis=2)
    paths = []
    for number, array in enumerate(made):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(array))
    return paths


@pytest.mark.parametrize("by", ["run", "champion", "folder", "address"])
def test_images_are_classified_by_run_champion_folder_and_address(
    published: Store, tmp_path: Path, images: list[Path], by: str
) -> None:
    trained_here = tmp_path / "model"
    assert called("export", "run", "--to", trained_here, "--store", published.root).exit_code == 0
    model = {"run": "run", "champion": "pets", "folder": trained_here, "address": f"{published.root}/runs/run"}[by]
    store = ["--store", published.root] if by in ("run", "champion") else []
    done = called("predict", model, *images, "--json", *store)
    assert done.exit_code == 0, done.output
    answers = json.loads(done.output)
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    with Image.open(images[0]) as image:
        wanted = trained().predict(np.asarray(image)[None, None])[0]
    assert answers[0]["label"] == int(wanted.argmax())
    assert answers[0]["class"] == NAMES[answers[0]["label"]]
    assert answers[0]["probability"] == pytest.approx(float(wanted.max()), abs=1e-5)


def test_images_are_resized_as_a_drops_images_are(published: Store, images: list[Path]) -> None:
    from components.common.intake.images import decode
    from components.common.intake.single import read_image

    pixels = read_image(images[1], (1, 16, 16))
    assert (pixels == decode(images[1].read_bytes(), 16)).all()
    assert (read_image(images[1], (3, 16, 16)) == pixels).all()


def test_hostile_images_are_refused_with_their_reason_and_the_others_answered(
    published: Store, tmp_path: Path, images: list[Path]
) -> None:
    reasons = {}
    for name, (data, reason) in hostile().items():
        (tmp_path / name).write_bytes(data)
        reasons[str(tmp_path / name)] = reason
    colour = tmp_path / "colour.png"
    colour.write_bytes(encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    done = called(
        "predict",
        "run",
        *reasons,
        colour,
        tmp_path,
        tmp_path / "none.png",
        images[0],
        "--json",
        "--store",
        published.root,
    )
    assert done.exit_code == 3
    answers = json.loads(done.output)
    assert {answer["image"]: answer["refused"] for answer in answers[: len(reasons)]} == reasons
    assert [answer["refused"] for answer in answers[len(reasons) : -1]] == ["format", "missing", "missing"]
    assert not any("class" in answer for answer in answers[:-1])
    assert "class" in answers[-1]
    assert "\x1b" not in called("predict", "run", images[0], "--store", published.root).output


def test_a_model_of_images_that_are_not_square_asks_for_their_size(tmp_path: Path) -> None:
    from components.common.intake.images import ImageProblem
    from components.common.intake.single import read_image

    path = tmp_path / "x.png"
    path.write_bytes(encode(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)))
    assert read_image(path, (1, 20, 30)).shape == (1, 20, 30)
    with pytest.raises(ImageProblem, match="30x20"):
        read_image(path, (1, 20, 40))


def test_an_unknown_model_says_where_was_looked(published: Store, images: list[Path]) -> None:
    done = called("predict", "nobody", images[0], "--store", published.root)
    assert done.exit_code == 2
    assert "champion" in done.output
    assert published.root in done.output


def test_the_version_is_an_option_too() -> None:
    assert called("--version").output == called("version").output
    assert called("--version").output.strip()[0].isdigit()


def test_the_names_of_the_files_cost_no_import_of_torch() -> None:
    code = (
        "import sys\n"
        "from pipelines.views import model_files\n"
        "from components.common.exporters import EXPORTERS\n"
        "assert {'model_pt2', 'model_onnx'} <= {name for one in EXPORTERS for name in EXPORTERS[one].files}\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-1000:]
