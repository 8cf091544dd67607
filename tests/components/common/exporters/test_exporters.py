"""Exported models: what each format promises, tried with the programs that read it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from components.common.classifier import Classifier, Provenance, load
from components.common.contracts.errors import ConfigError, ContractError
from components.common.exporters import EXPORTERS, export, formats_of, save
from components.common.exporters.card import markdown_text
from components.common.exporters.onnx_graph import OPSET
from components.common.models import MODELS, ModelSpec, build_model

HOSTILE = (
    "<script>alert(1)</script>",
    "a | b\n---\nlicense: mit",
    "[x](http://evil) ![y](z) `q` www.evil.com",
    "\x1b[31m",
)
SIZES = {"resnet18": 64, "resnet50": 64, "vit_b_16": 32}


def classifier(architecture: str = "convnet_tiny", channels: int = 1, **known: object) -> Classifier:
    torch.manual_seed(0)
    spec = ModelSpec(
        num_classes=4,
        channels=channels,
        image_size=SIZES.get(architecture, 28 if architecture.startswith("convnet") else 32),
        mean=(0.2,) * channels,
        std=(0.3,) * channels,
    )
    model = build_model(architecture, spec)
    # Statistics of batch-norm that are not those of a fresh model: an exporter that left them out would show.
    side = spec.image_size
    model.train()(torch.rand(8, channels, side, side))
    return Classifier(
        module=model.eval(),
        architecture=architecture,
        spec=spec,
        image_shape=(channels, side, side),
        class_names=HOSTILE,
        provenance=Provenance(run_id="run-1", verdict="no poison found", acc=0.9751, **known),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return classifier()


@pytest.fixture(scope="module")
def files(trained: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save(trained, folder)
    return folder


def test_every_format_is_written_under_its_usual_name(files: Path) -> None:
    assert {path.name for path in files.iterdir()} == {
        *("model.safetensors", "config.json", "model.pt2", "model.onnx", "README.md")
    }


def test_the_program_runs_with_torch_alone_and_takes_any_batch(files: Path, trained: Classifier) -> None:
    code = (
        "import sys, torch\n"
        "model = torch.export.load(sys.argv[1]).module()\n"
        "for n in (1, 7, 64): assert model(torch.rand(n, 1, 28, 28)).shape == (n, 4)\n"
        "assert not {m.split('.')[0] for m in sys.modules} & {'components', 'pipelines', 'untaint'}\n"
        "images = torch.linspace(0, 1, 3 * 784).view(3, 1, 28, 28)\n"
        "print(model(images).flatten().tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code, files / "model.pt2"], capture_output=True, text=True, cwd="/", timeout=200
    )
    assert result.returncode == 0, result.stderr[-2000:]
    with torch.no_grad():
        wanted = trained.module(torch.linspace(0, 1, 3 * 784).view(3, 1, 28, 28))
    assert torch.allclose(torch.tensor(json.loads(result.stdout)).view(3, 4), wanted, atol=1e-5)


def test_the_onnx_graph_gives_what_the_program_gives(files: Path) -> None:
    import onnx
    import onnxruntime

    model = onnx.load(files / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    program = torch.export.load(files / "model.pt2").module()
    session = onnxruntime.InferenceSession(files / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))
        found = session.run(["logits"], {"images": images.numpy()})[0]
        assert np.abs(found - program(images).numpy()).max() < 1e-5


@pytest.mark.parametrize("architecture", sorted(name for name in MODELS if name not in ("convnet_tiny", "resnet50")))
def test_every_architecture_becomes_a_program_of_any_batch(architecture: str) -> None:
    made = classifier(architecture, channels=3)
    program = torch.export.load(io.BytesIO(export(made, ["pt2"])["model_pt2"])).module()
    side = made.spec.image_size
    for count in (1, 3):
        images = torch.rand(count, 3, side, side)
        with torch.no_grad():
            assert torch.allclose(program(images), made.module(images), atol=1e-4)


def test_equal_classifiers_give_equal_bytes_that_name_no_place_of_this_machine(trained: Classifier) -> None:
    first, again = export(trained, EXPORTERS), export(classifier(), EXPORTERS)
    assert {name for name in first if first[name] != again[name]} == set()
    here = str(Path(__file__).parents[4]).encode()
    assert [name for name, data in first.items() if here in data or sys.prefix.encode() in data] == []


def test_a_loaded_model_is_the_saved_one_to_the_last_bit(files: Path, trained: Classifier) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)
    state = torch.get_rng_state()
    loaded = load(files)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(loaded.predict(images), trained.predict(images))
    assert loaded.predict(images).sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert loaded.class_names == HOSTILE
    assert loaded.provenance == trained.provenance
    assert loaded.predict(images[:0]).shape == (0, 4)


def test_safetensors_are_read_without_this_project(files: Path, trained: Classifier) -> None:
    from safetensors.torch import load_file

    state = load_file(files / "model.safetensors")
    assert set(state) == set(trained.module.state_dict())


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "sha256"),
        ("config.json", lambda data: b"[]", "configuration"),
        ("config.json", lambda data: data.replace(b'"image_size": 28', b'"image_size": 99999'), "out of range"),
        ("config.json", lambda data: data.replace(b'"channels": 1', b'"channels": 2'), "out of range"),
        ("config.json", lambda data: data.replace(b"untaint.model/1", b"untaint.model/9"), "untaint.model/9"),
        ("config.json", lambda data: data.replace(b"convnet_tiny", b"convnet"), "weights of a convnet"),
        ("config.json", lambda data: b"[" * 200_000, "configuration"),
    ],
)
def test_files_that_were_changed_are_refused_with_words(
    files: Path, tmp_path: Path, file: str, change: object, words: str
) -> None:
    for name in ("model.safetensors", "config.json"):
        data = (files / name).read_bytes()
        (tmp_path / name).write_bytes(change(data) if name == file else data)  # type: ignore[operator]
    with pytest.raises(ContractError, match=words):
        load(tmp_path)


def test_a_folder_without_a_model_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="untaint export"):
        load(tmp_path)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 1, 28, 28), np.float32), np.zeros((2, 3, 28, 28), np.uint8), np.zeros((28, 28), np.uint8)]
)
def test_images_of_another_form_are_refused(trained: Classifier, images: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="uint8 of the shape"):
        trained.predict(images)


def front_and_body(card: bytes) -> tuple[dict, str]:
    _, front, body = card.decode().split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_has_the_hubs_front_matter_and_leaves_the_licence_to_the_owner(trained: Classifier) -> None:
    card = export(trained, ["card"])["model_card"]
    front, body = front_and_body(card)
    assert card.startswith(b"---\n")
    assert front["pipeline_tag"] == "image-classification"
    assert front["library_name"] == "pytorch"
    assert front["model-index"][0]["results"][0]["metrics"][0] == {
        "type": "accuracy",
        "value": 0.9751,
        "name": "accuracy on the holdout",
    }
    assert "license" not in front
    assert "Licence" in body


def test_text_of_the_data_can_do_nothing_in_the_card(trained: Classifier) -> None:
    _, body = front_and_body(export(trained, ["card"])["model_card"])
    rows = [line for line in body.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(HOSTILE)
    assert all(row.count("|") == 3 for row in rows)
    for sign in ("<script", "](", "![", "`q`", "www.evil", "\x1b"):
        assert sign not in body
    assert markdown_text("cat, 97.5 % of 3") == "cat, 97.5 % of 3"


@pytest.mark.parametrize(
    ("known", "said", "unsaid"),
    [
        ({}, ["Not tested: the success rate", "Not tested: whether a planted"], ["ASR"]),
        ({"attack": "badnets", "asr": 0.012}, ["Tested: the attack badnets", "1.20 %"], ["The run injected none"]),
        (
            {"canary": {"planted": 9, "caught": 1.0, "fired": 0.0}},
            ["on 9 training images", "100.00 %"],
            ["a planted trigger"],
        ),
    ],
)
def test_the_card_says_what_was_tested_and_what_not(known: dict, said: list[str], unsaid: list[str]) -> None:
    _, body = front_and_body(export(classifier(**known), ["card"])["model_card"])
    text = " ".join(body.split())
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []
    assert "does not prove that there is none" in text


def test_a_format_without_its_packages_names_them_and_the_extra(
    trained: Classifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(EXPORTERS["onnx"]), "missing", property(lambda self: list(self.packages)))
    with pytest.raises(ConfigError, match=r"untaint\[onnx\]"):
        export(trained, ["onnx"])
    # By default what can be written is written.
    assert "model.onnx" not in {path.name for path in save(trained, tmp_path)}


def test_formats_are_named_with_commas_and_an_unknown_one_lists_the_known() -> None:
    assert formats_of("pt2, card") == ["pt2", "card"]
    assert formats_of("") == ["card", "onnx", "pt2", "safetensors"]
    with pytest.raises(ConfigError, match="card, onnx, pt2, safetensors"):
        formats_of("tflite")
