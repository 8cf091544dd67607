"""What a training does on GPUs, as far as CPUs show it: parts of a batch, several processes, precision, compilation."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.contracts.errors import ConfigError, ResourceError, UntaintError
from components.common.learning import launch
from components.common.learning.augment import weak
from components.common.learning.config import TrainRecipe
from components.common.learning.devices import PROCESSES, process_count
from components.common.learning.distributed import current_group
from components.common.learning.launch import train_on_devices
from components.common.learning.loop import EpochOrder, Trainer
from components.common.learning.precision import pick_precision
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch, Watch
from components.common.models import ModelSpec, build_model
from components.finetune.algorithm import train as finetune_train
from components.finetune.config import FinetuneConfig
from components.warmup.algorithm import train as warmup_train
from components.warmup.config import WarmupConfig

SPEC = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))


class Counting(NullWatch):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def progress(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        self.steps.append(step)


def plain_net() -> nn.Module:
    """Without batch-norm, whose statistics depend on how a batch is cut."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(648, 10))


def norm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(324, 10))


def supervised(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    watch: Watch,
    *,
    recipe: TrainRecipe,
    augment: bool,
    fits: int = 999,
) -> dict[str, Any]:
    """Six steps on a device that holds ``fits`` images."""
    images, labels = tensors["images"], tensors["labels"]
    trainer = Trainer(model=model, recipe=recipe, phase="test", watch=watch)
    order = EpochOrder(len(labels), recipe.batch_size, recipe.seed, "test")

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        seen = weak(images[rows], generator, mirror=False) if augment else images[rows] / 255
        logits = trainer.logits(seen)
        if len(rows) > fits:
            raise torch.OutOfMemoryError("more than this device holds")
        return F.cross_entropy(logits, labels[rows])

    ema = trainer.run(6, order.batch, loss_at)
    return {"weights": model.state_dict(), "ema": ema.state_dict(), "parts": trainer.parts}


def dying(model: nn.Module, tensors: Mapping[str, Tensor], watch: Watch) -> dict[str, Any]:
    """Rank 1 is killed while rank 0 waits for it."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()
    return {}


def lingering(model: nn.Module, tensors: Mapping[str, Tensor], watch: Watch) -> dict[str, Any]:
    """Rank 1 goes on while rank 0 is done."""
    if current_group().rank > 0:
        time.sleep(1_000)
    return {"rank": current_group().rank}


class Sleeper:
    """Whoever unpickles it sleeps."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (1_000,)


@pytest.fixture
def tensors(digits: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    make_deterministic(3)
    return {"images": digits[0][:200], "labels": digits[1][:200]}


def recipe(**changes: Any) -> TrainRecipe:
    return TrainRecipe(**{"seed": 3, "batch_size": 50, "learning_rate": 0.05, **changes})


def furthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tensors) -> None:
    whole = supervised(plain_net(), tensors, NullWatch(), recipe=recipe(), augment=False)
    parts = supervised(plain_net(), tensors, NullWatch(), recipe=recipe(micro_batch=7), augment=False)
    assert parts["parts"] == 8
    assert furthest(whole["weights"], parts["weights"]) < 1e-5
    assert furthest(whole["weights"], plain_net().state_dict()) > 1e-2


def test_out_of_memory_halves_the_batch_says_so_and_ends_with_the_bits_of_small_parts(tensors, caplog) -> None:
    caplog.set_level(logging.INFO)
    halved = supervised(norm_net(), tensors, NullWatch(), recipe=recipe(), augment=True, fits=15)
    lines = [record.getMessage() for record in caplog.records if "in parts of" in record.getMessage()]
    assert [line.split("parts of ")[1].split(",")[0] for line in lines] == ["25", "13"]
    assert not any(word in line.lower() for line in lines for word in ("error", "fail", "warn"))
    small = supervised(norm_net(), tensors, NullWatch(), recipe=recipe(micro_batch=13), augment=True)
    # Batch-norm's statistics among them: the attempts that ran out of memory left no trace.
    assert furthest(halved["weights"], small["weights"]) == 0
    assert furthest(halved["ema"], small["ema"]) == 0


def test_a_device_too_small_for_two_images_is_named(tensors) -> None:
    with pytest.raises(ResourceError, match="memory for 2 images at once, of batches of 50"):
        supervised(norm_net(), tensors, NullWatch(), recipe=recipe(), augment=False, fits=1)


def test_two_processes_do_what_one_does(tensors, monkeypatch) -> None:
    whole = supervised(plain_net(), tensors, NullWatch(), recipe=recipe(), augment=False)
    monkeypatch.setenv(PROCESSES, "2")
    watch = Counting()
    train = partial(supervised, recipe=recipe(), augment=False)
    both = train_on_devices(train, plain_net, plain_net(), tensors, watch, seed=3)
    assert watch.steps == [1, 2, 3, 4, 5, 6]
    assert furthest(whole["weights"], both["weights"]) < 1e-5
    assert furthest(whole["ema"], both["ema"]) < 1e-5


def test_two_processes_warm_up_as_one_does_in_two_parts(tensors, monkeypatch) -> None:
    config = WarmupConfig(epochs=2, batch_size=50, seed=3, mixing_rounds=1)
    build = partial(build_model, "convnet", SPEC)
    start = build().state_dict()

    def fresh() -> nn.Module:
        model = build()
        model.load_state_dict(start)
        return model

    halves = partial(warmup_train, config=WarmupConfig(**{**vars(config), "micro_batch": 25}), mirror=False)
    one = halves(fresh(), tensors, NullWatch())
    monkeypatch.setenv(PROCESSES, "2")
    two = train_on_devices(
        partial(warmup_train, config=config, mirror=False), build, fresh(), tensors, NullWatch(), seed=3
    )
    # Running statistics differ: a mean over processes here, one update after the other there.
    learned = [name for name in start if "running" not in name and "num_batches" not in name]
    assert furthest({n: one["weights"][n] for n in learned}, {n: two["weights"][n] for n in learned}) < 1e-3
    assert float((one["traces"]["loss"] - two["traces"]["loss"]).abs().mean()) < 0.15
    assert float(two["traces"]["hold"]["border"].mean()) > 0.01


def test_one_process_out_of_memory_makes_both_halve(tensors, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(PROCESSES, "2")
    train = partial(supervised, recipe=recipe(batch_size=51), augment=False, fits=25)
    # 51 images are 26 for rank 0 and 25 for rank 1: only the first runs out.
    both = train_on_devices(train, plain_net, plain_net(), tensors, NullWatch(), seed=3)
    assert both["parts"] == 2
    assert sum("in parts of 13" in record.getMessage() for record in caplog.records) == 1


def test_a_killed_process_ends_all_and_is_named(tensors, monkeypatch) -> None:
    monkeypatch.setenv(PROCESSES, "2")
    with pytest.raises((ResourceError, RuntimeError), match=r"process 1 ended with signal SIGKILL"):
        train_on_devices(dying, plain_net, plain_net(), tensors, NullWatch(), seed=3)


class Ending:
    """A process that ends between the first question for its exit code and the second."""

    def __init__(self, code: int) -> None:
        self._codes = [None, *[code] * 100]
        self.sentinel, ours = os.pipe()
        os.close(ours)

    @property
    def exitcode(self) -> int | None:
        return self._codes.pop(0)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("code", [0, 3])
def test_an_end_between_two_looks_is_not_missed(code: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = Ending(code)
    with pytest.raises(ResourceError, match="exit code 3") if code else nullcontext():
        launch._look_after([process], [ours], NullWatch())
    os.close(process.sentinel)
    theirs.close()


class Lingering:
    """A process that never ends."""

    exitcode = None

    def __init__(self) -> None:
        self.sentinel, self._ours = os.pipe()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("later", [0.0, 0.3])
def test_a_result_that_overtakes_a_slow_process_is_not_waited_for(later: float, monkeypatch, caplog) -> None:
    """Rank 0 may be done before the parent hears that rank 1 was there at all."""
    monkeypatch.setattr(launch, "_FAREWELL_SECONDS", 1.0)
    processes = [Lingering(), Lingering()]
    pipes = [multiprocessing.Pipe() for _ in processes]
    pipes[0][1].send(("met",))
    pipes[0][1].send(("done",))
    late = threading.Timer(later, pipes[1][1].send, [("met",)])
    late.start()
    launch._look_after(processes, [ours for ours, _ in pipes], NullWatch())
    late.join()
    assert "did not end by themselves" in caplog.text


def test_processes_that_do_not_meet_are_named(tensors, monkeypatch) -> None:
    monkeypatch.setenv(PROCESSES, "2")
    monkeypatch.setattr(launch, "_MEETING_SECONDS", 3.0)
    started = time.monotonic()
    with pytest.raises(ResourceError, match=r"all 2 processes to meet within 3 s.*still missing: 0, 1"):
        train_on_devices(partial(dying, Sleeper()), plain_net, plain_net(), tensors, NullWatch(), seed=3)
    assert time.monotonic() - started < 60


def test_a_process_that_does_not_end_does_not_hold_the_result_back(tensors, monkeypatch, caplog) -> None:
    monkeypatch.setenv(PROCESSES, "2")
    monkeypatch.setattr(launch, "_FAREWELL_SECONDS", 1.0)
    done = train_on_devices(lingering, plain_net, plain_net(), tensors, NullWatch(), seed=3)
    assert done == {"rank": 0}
    assert "did not end by themselves" in caplog.text


def test_an_error_of_a_process_arrives_as_it_was_raised(tensors, monkeypatch) -> None:
    monkeypatch.setenv(PROCESSES, "2")
    train = partial(supervised, recipe=recipe(batch_size=3), augment=False)
    with pytest.raises(ConfigError, match=r"at least 4 for 2 processes; found 3") as caught:
        train_on_devices(train, plain_net, plain_net(), tensors, NullWatch(), seed=3)
    assert isinstance(caught.value, UntaintError)


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5"])
def test_an_unusable_number_of_processes_is_refused(wanted: str, monkeypatch) -> None:
    monkeypatch.setenv(PROCESSES, wanted)
    with pytest.raises(ConfigError, match=PROCESSES):
        process_count()


def test_fine_tuning_survives_parts_without_a_single_trusted_sample(tensors) -> None:
    labelled = torch.zeros(200, dtype=torch.bool)
    labelled[:5] = True
    config = FinetuneConfig(epochs=1, batch_size=50, micro_batch=2, seed=3)
    given = {**tensors, "labelled": labelled, "doubtful": torch.ones(10, 10)}
    result = finetune_train(norm_net(), given, NullWatch(), config=config, mirror=False)
    assert all(bool(torch.isfinite(weights).all()) for weights in result["weights"].values())


def test_the_cpu_gets_bf16_only_when_asked(tensors) -> None:
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) is torch.float32
    assert pick_precision("bf16", cpu) is torch.bfloat16
    full = supervised(plain_net(), tensors, NullWatch(), recipe=recipe(), augment=False)
    mixed = supervised(plain_net(), tensors, NullWatch(), recipe=recipe(precision="bf16"), augment=False)
    assert all(weights.dtype == torch.float32 for weights in mixed["weights"].values())
    assert 0 < furthest(full["weights"], mixed["weights"]) < 1e-2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_learns_what_the_model_learns(tensors) -> None:
    images, labels = tensors["images"] / 255, tensors["labels"]
    models = [norm_net(), norm_net()]
    for model, wanted in zip(models, (False, True), strict=True):
        trainer = Trainer(
            model=model, recipe=recipe(compile=wanted), phase="test", watch=NullWatch(), compile_backend="aot_eager"
        )
        order = EpochOrder(200, 50, 3, "test")
        trainer.run(4, order.batch, lambda rows, _, t=trainer: F.cross_entropy(t.logits(images[rows]), labels[rows]))
    assert furthest(models[0].state_dict(), models[1].state_dict()) < 1e-5


@pytest.mark.gpu
def test_a_gpu_warms_up_in_bf16_where_it_has_it(tensors) -> None:
    device = torch.device("cuda", 0)
    model = build_model("convnet", SPEC).to(device)
    result = warmup_train(model, tensors, NullWatch(), config=WarmupConfig(epochs=2, seed=3), mirror=False)
    assert result["device"] == "cuda"
    assert bool(torch.isfinite(result["traces"]["loss"]).all())


@pytest.mark.gpu
def test_every_gpu_takes_part_and_the_result_is_that_of_one(tensors, monkeypatch) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    exact = recipe(precision="fp32")

    def weights() -> Mapping[str, Tensor]:
        train = partial(on_gpu, recipe=exact)
        result: Mapping[str, Tensor] = train_on_devices(train, plain_net, plain_net(), tensors, NullWatch(), seed=3)[
            "weights"
        ]
        return {name: value.cpu() for name, value in result.items()}

    monkeypatch.setenv(PROCESSES, "1")
    one = weights()
    monkeypatch.setenv(PROCESSES, "2")
    assert furthest(one, weights()) < 1e-3


def on_gpu(model: nn.Module, tensors: Mapping[str, Tensor], watch: Watch, *, recipe: TrainRecipe) -> dict[str, Any]:
    device = next(model.parameters()).device
    there = {name: tensor.to(device) for name, tensor in tensors.items()}
    return supervised(model, there, watch, recipe=recipe, augment=False)
