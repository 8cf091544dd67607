"""The training loop, its augmentation and its checkpoints."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.contracts.errors import ContractError, UntaintError
from components.common.learning.augment import strong, to_float, weak
from components.common.learning.checkpoint import from_bytes, to_bytes
from components.common.learning.config import TrainRecipe
from components.common.learning.loop import EpochOrder, Trainer, constant_after_ramp, one_cycle
from components.common.learning.mixing import hold_under_mixing, mix, partners
from components.common.learning.scoring import score
from components.common.learning.seeding import derive_seed, make_deterministic, stream
from components.common.learning.watch import NullWatch


class KeepingWatch(NullWatch):
    """Keeps the state after a given number of steps, and can hand it to another process's loop."""

    def __init__(self, keep_at: int | None = None, state: bytes | None = None) -> None:
        self.keep_at, self.state, self.steps = keep_at, state, 0

    def progress(self, phase: str, step: int, total: int, figures: object) -> None:
        self.steps += 1
        self.now = step

    def wants_state(self, phase: str) -> bool:
        return self.now == self.keep_at

    def save(self, phase: str, state: bytes) -> None:
        self.state = state

    def restore(self, phase: str) -> bytes | None:
        return self.state if self.keep_at is None else None


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(324, 10))


def train(watch: NullWatch, images: Tensor, labels: Tensor, steps: int = 12) -> tuple[nn.Module, nn.Module]:
    make_deterministic(3)
    recipe = TrainRecipe(seed=3, batch_size=32, learning_rate=0.05)
    trainer = Trainer(model=small_net(), recipe=recipe, phase="test", watch=watch)
    order = EpochOrder(len(labels), recipe.batch_size, recipe.seed, "test")

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(trainer.model(weak(images[rows], generator, mirror=False)), labels[rows])

    return trainer.model, trainer.run(steps, order.batch, loss_at)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_twice_gives_the_same_bits(digits: tuple[Tensor, Tensor]) -> None:
    first = train(NullWatch(), *digits)
    second = train(NullWatch(), *digits)
    assert same(first[0], second[0])
    assert same(first[1], second[1])


@pytest.mark.parametrize("stopped_after", [1, 7, 11])
def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not_stopped(
    digits: tuple[Tensor, Tensor], stopped_after: int
) -> None:
    whole = train(NullWatch(), *digits)
    stopped = KeepingWatch(keep_at=stopped_after)
    train(stopped, *digits)
    resumed_watch = KeepingWatch(state=stopped.state)
    resumed = train(resumed_watch, *digits)
    assert resumed_watch.steps == 12 - stopped_after
    assert same(whole[0], resumed[0])
    assert same(whole[1], resumed[1])


def test_a_loss_that_is_not_finite_stops_the_training_by_name() -> None:
    trainer = Trainer(model=small_net(), recipe=TrainRecipe(), phase="warmup", watch=NullWatch())
    with pytest.raises(UntaintError, match=r"training 'warmup', step 0: expected a finite loss; found nan"):
        trainer.run(1, EpochOrder(4, 4, 0, "x").batch, lambda rows, _: torch.tensor(float("nan"), requires_grad=True))


def test_every_sample_is_seen_once_an_epoch_in_another_order() -> None:
    order = EpochOrder(64, 16, seed=1, phase="x")
    epochs = [torch.cat([order.batch(4 * epoch + i) for i in range(4)]) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(64))
    assert not torch.equal(*epochs)


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    order = EpochOrder(3, 128, seed=1, phase="x")
    assert order.steps_per_epoch == 1
    assert sorted(order.batch(5).tolist()) == [0, 1, 2]


def test_schedules_rise_then_fall_or_stay() -> None:
    cycle = [one_cycle(step, 100) for step in range(100)]
    assert max(cycle) == pytest.approx(1.0)
    assert cycle[0] == pytest.approx(0.1)
    assert cycle[-1] < 0.01
    assert [constant_after_ramp(step, 100) for step in (0, 9, 50, 99)] == pytest.approx([0.1, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("augment", [weak, strong])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_keeps_shape_range_layout_and_repeats_with_its_seed(augment, channels: int, digits) -> None:
    images = digits[0][:16].expand(-1, channels, -1, -1).contiguous()
    before = images.clone()
    once = augment(images, stream(0, "a"), mirror=True)
    assert once.shape == images.shape
    assert once.dtype == torch.float32
    assert once.is_contiguous(memory_format=torch.channels_last)
    assert float(once.min()) >= 0.0
    assert float(once.max()) <= 1.0
    assert torch.equal(once, augment(images, stream(0, "a"), mirror=True))
    assert not torch.equal(once, augment(images, stream(0, "b"), mirror=True))
    assert torch.equal(images, before)


def test_weak_augmentation_only_moves_pixels_and_mirrors_only_where_asked(digits) -> None:
    ramp = torch.arange(28, dtype=torch.uint8).expand(64, 1, 28, 28)
    columns = weak(ramp, stream(0, "x"), mirror=False)[:, 0, 14].mul(255).round()
    # Away from the reflected border, columns still ascend by one: no sample was flipped.
    assert (columns[:, 8:20].diff(dim=1) == 1).all()
    flipped = weak(ramp, stream(0, "x"), mirror=True)[:, 0, 14].mul(255).round()[:, 8:20].diff(dim=1)
    assert 10 < int((flipped == -1).all(dim=1).sum()) < 54


def test_partners_have_another_label(digits) -> None:
    labels = digits[1]
    chosen = partners(labels, stream(0, "p"))
    assert (labels[chosen] != labels).all()


def test_border_mixing_keeps_the_border_and_centre_mixing_the_centre() -> None:
    mine, theirs = torch.ones(1, 1, 28, 28), torch.zeros(1, 1, 28, 28)
    border, centre = mix("border", mine, theirs), mix("centre", mine, theirs)
    assert border[0, 0, 0, 0] == 1
    assert border[0, 0, 14, 14] == 0
    assert centre[0, 0, 0, 0] == 0
    assert centre[0, 0, 14, 14] == 1
    assert mix("blend", mine, theirs).unique().tolist() == [0.5]


class CornerNet(nn.Module):
    """Says class 1 where the last pixel is white, whatever the rest: a backdoor in its purest form."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, 0, -1, -1]
        return torch.stack([self.scale * (0.5 - corner), self.scale * (corner - 0.5)], dim=1)


def test_a_trigger_in_the_corner_holds_its_label_under_border_mixing_alone(digits) -> None:
    images = digits[0][:40].clone()
    images[:, :, -1, -1] = 0
    images[:20, :, -1, -1] = 255
    labels = torch.tensor([1] * 20 + [0] * 20)
    hold = hold_under_mixing(CornerNet(), images, labels, ("border", "centre"), 2, seed=0)
    assert hold["border"].min() > 0.99
    assert hold["centre"].max() < 0.01


class SmoothNet(nn.Module):
    """Says class 1 where neighbouring pixels are alike: a trigger in the finest detail, as a warp leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(400.0))

    def forward(self, images: Tensor) -> Tensor:
        detail = (images[:, 0, :, 1:] - images[:, 0, :, :-1]).abs().mean(dim=(1, 2)) - 0.025
        return torch.stack([self.scale * detail, -self.scale * detail], dim=1)


def test_noise_takes_the_label_of_a_trigger_in_the_finest_detail_and_no_other() -> None:
    """Patches survive faint noise, and so do objects; what made an image too smooth does not."""
    smooth = torch.full((20, 1, 28, 28), 128, dtype=torch.uint8)
    labels = torch.ones(20, dtype=torch.int64)
    assert score(SmoothNet(), smooth, labels).given_probability.min() > 0.99
    assert hold_under_mixing(SmoothNet(), smooth, labels, ("noise",), 2, seed=0)["noise"].max() < 0.01
    patched = smooth.clone()
    patched[:, :, -1, -1] = 255
    first, again = (hold_under_mixing(CornerNet(), patched, labels, ("noise",), 2, seed=0)["noise"] for _ in range(2))
    assert first.min() > 0.99
    assert torch.equal(first, again)


def test_scores_match_their_definitions(digits) -> None:
    images, labels = digits[0][:50], digits[1][:50]
    net = small_net().eval()
    scores = score(net, images, labels)
    probabilities = net(to_float(images)).softmax(dim=1).detach()
    assert torch.allclose(scores.given_probability, probabilities[torch.arange(50), labels], atol=1e-5)
    assert torch.allclose(scores.loss, -scores.given_probability.log(), atol=1e-4)
    assert torch.allclose(scores.entropy, -(probabilities * probabilities.log()).sum(dim=1), atol=1e-4)


def test_derived_seeds_differ_by_name_and_stay_in_range() -> None:
    seeds = {derive_seed(0, "order", epoch) for epoch in range(100)} | {derive_seed(1, "order", 0)}
    assert len(seeds) == 101
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_checkpoints_repeat_byte_for_byte_and_come_back() -> None:
    state = {"weights": {"a": torch.arange(6).view(2, 3)}, "step": 3}
    assert to_bytes(state) == to_bytes(state)
    back = from_bytes(to_bytes(state), subject="x")
    assert torch.equal(back["weights"]["a"], state["weights"]["a"])
    assert back["step"] == 3


class Hostile:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("the checkpoint ran code",))


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    import io

    buffer = io.BytesIO()
    torch.save({"weights": Hostile()}, buffer)
    with pytest.raises(ContractError, match="expected a checkpoint of tensors and plain values"):
        from_bytes(buffer.getvalue(), subject="s3://bucket/model")
    with pytest.raises(ContractError):
        from_bytes(pickle.dumps(Hostile()), subject="s3://bucket/model")
    assert "ran code" not in capsys.readouterr().out


def test_a_truncated_checkpoint_is_refused() -> None:
    with pytest.raises(ContractError, match="s3://bucket/model"):
        from_bytes(to_bytes({"a": torch.ones(100)})[:200], subject="s3://bucket/model")
