"""Every registered model: shapes, gradients, equal weights for equal seeds, checkpoints; and sizes that do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from components.common.contracts.errors import ConfigError
from components.common.learning.checkpoint import from_bytes, to_bytes
from components.common.models import MODELS, ModelSpec, build_model
from components.common.models.base import check_size

SPEC = ModelSpec(num_classes=7, channels=3, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
GREY = ModelSpec(num_classes=2, channels=1, image_size=32, mean=(0.5,), std=(0.2,))
LARGE = {"resnet18": 64, "resnet50": 64}
PARAMETERS = {
    "convnet": 0.24e6,
    "convnet_tiny": 0.06e6,
    "wrn16_1": 0.17e6,
    "wrn28_2": 1.47e6,
    "preact_resnet18": 11.2e6,
    "resnet18": 11.2e6,
    "resnet50": 23.5e6,
    "vit_b_16": 85.3e6,
}


def spec_of(name: str, spec: ModelSpec) -> ModelSpec:
    return replace(spec, image_size=LARGE.get(name, spec.image_size))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_classifies_passes_gradients_repeats_with_its_seed_and_survives_a_checkpoint(name: str) -> None:
    spec = spec_of(name, SPEC)
    torch.manual_seed(0)
    model = build_model(name, spec)
    torch.manual_seed(0)
    twin = build_model(name, spec)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    size = sum(parameter.numel() for parameter in model.parameters())
    assert size == pytest.approx(PARAMETERS.get(name, size), rel=0.05)

    images = torch.rand(4, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 6])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    # Twice: the head of a ViT starts at zero, so nothing below it moves in the first step.
    for _ in range(2):
        logits = model(images)
        assert logits.shape == (4, 7)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    stem = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    assert bool((stem.grad != 0).any())

    state = {"weights": model.state_dict()}
    twin.load_state_dict(from_bytes(to_bytes(state), subject="x")["weights"])
    with torch.no_grad():
        assert torch.equal(model.eval()(images[:2]), twin.eval()(images[:2]))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_grey_images_and_two_classes(name: str) -> None:
    spec = spec_of(name, GREY)
    with torch.no_grad():
        logits = build_model(name, spec).eval()(torch.rand(1, 1, spec.image_size, spec.image_size))
    assert logits.shape == (1, 2)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("convnet", 4, r"at least 8 pixels; found 4x4\. Start a new run with --set ingest\.image_size=8\.$"),
        # A smaller model would not help.
        ("resnet18", 4, r"at least 64 pixels; found 4x4\. Start a new run with --set ingest\.image_size=64\.$"),
        ("preact_resnet18", 8, "at least 16 pixels"),
        ("resnet18", 32, r"found 32x32\. Choose .* --model convnet, or start .*ingest\.image_size=64\.$"),
        ("resnet50", 28, "at least 64 pixels"),
        ("vit_b_16", 28, "at least 32 pixels, square, in multiples of 16; found 28.*image_size=32"),
        ("vit_b_16", 100, "multiples of 16; found 100.*image_size=96"),
    ],
)
def test_a_size_that_does_not_fit_is_told_with_one_that_does(name: str, size: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(name, replace(SPEC, image_size=size))


def test_a_size_can_be_checked_without_building_the_model() -> None:
    check_size("resnet50", 64, 80)
    with pytest.raises(ConfigError, match="square, in multiples of 16; found 80x64"):
        check_size("vit_b_16", 64, 80)
