"""Supervised training on everything: the warm-up that is watched, and the undefended control model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.learning.augment import weak
from components.common.learning.config import TrainRecipe
from components.common.learning.history import History, watched_in
from components.common.learning.loop import EpochOrder, Trainer, constant_after_ramp
from components.common.learning.mixing import hold_under_mixing
from components.common.learning.scoring import score
from components.common.learning.watch import Watch
from components.common.tables.tables import MIXING_KINDS
from components.warmup.config import ControlConfig, WarmupConfig

__all__ = ["Traces", "TrainingSet", "train", "train_control", "warm_up"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSet:
    """Labelled training images.

    Attributes:
        images: uint8 [n, c, h, w], on the training device.
        labels: int64 [n], the given labels, on the CPU.
        mirror: Whether a horizontal flip keeps the class.
    """

    images: Tensor
    labels: Tensor
    mirror: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """What the warm-up saw; float32 tensors on the CPU.

    Attributes:
        loss: [epochs, n], cross-entropy of the EMA model against the given label, nats.
        entropy: [epochs, n], entropy of its prediction, nats.
        given_probability: [epochs, n].
        hold: Kind of mixing to [n], probability of the given label under that mixing after the last epoch.
    """

    loss: Tensor
    entropy: Tensor
    given_probability: Tensor
    hold: dict[str, Tensor]


def _supervised(
    data: TrainingSet, recipe: TrainRecipe, trainer: Trainer, epochs: int, after_epoch: Callable[[int], None] | None
) -> nn.Module:
    order = EpochOrder(len(data.labels), recipe.batch_size, recipe.seed, trainer.phase)
    if trainer.history is not None:
        trainer.history.begin(epochs, order.steps_per_epoch)
    labels = data.labels.to(trainer.device)

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        rows = rows.to(trainer.device)
        return F.cross_entropy(trainer.logits(weak(data.images[rows], generator, mirror=data.mirror)), labels[rows])

    def after_step(done: int) -> None:
        if after_epoch is not None and done % order.steps_per_epoch == 0:
            after_epoch(done // order.steps_per_epoch)

    return trainer.run(epochs * order.steps_per_epoch, order.batch, loss_at, after_step)


def warm_up(
    model: nn.Module, data: TrainingSet, config: WarmupConfig, watch: Watch, history: History | None = None
) -> tuple[nn.Module, Traces]:
    """Trains on everything for a few epochs and scores every sample with the EMA after each.

    Args:
        model: Freshly initialised; trained in place.
        data: The training set.
        config: Recipe and epochs.
        watch: Progress and resumable state.
        history: Filled with loss and accuracy by epoch; None for no record.

    Returns:
        The EMA model, and what it thought of the samples. In a process other than rank 0 the latter is zero.
    """
    n = len(data.labels)
    kept = {name: torch.zeros(config.epochs, n) for name in ("loss", "entropy", "given_probability")}
    trainer = Trainer(
        model=model,
        recipe=config,
        phase="warmup",
        watch=watch,
        schedule=constant_after_ramp,
        kept=dict(kept),
        history=history,
    )

    def after_epoch(epoch: int) -> None:
        if not trainer.group.leads:
            return
        scores = score(trainer.ema.module, data.images, data.labels)
        trainer.kept["loss"][epoch - 1] = scores.loss
        trainer.kept["entropy"][epoch - 1] = scores.entropy
        trainer.kept["given_probability"][epoch - 1] = scores.given_probability

    ema = _supervised(data, config, trainer, config.epochs, after_epoch)
    if trainer.group.leads:
        hold = hold_under_mixing(ema, data.images, data.labels, MIXING_KINDS, config.mixing_rounds, config.seed)
    else:
        hold = {kind: torch.zeros(n) for kind in MIXING_KINDS}
    return ema, Traces(**trainer.kept, hold=hold)


def train_control(
    model: nn.Module, data: TrainingSet, config: ControlConfig, watch: Watch, history: History | None = None
) -> nn.Module:
    """Trains the undefended model: everything as given, one-cycle rate, EMA.

    Args:
        model: Freshly initialised; trained in place.
        data: The training set.
        config: Recipe and epochs.
        watch: Progress and resumable state.
        history: As for ``warm_up``.

    Returns:
        The EMA model.
    """
    trainer = Trainer(model=model, recipe=config, phase="control", watch=watch, history=history)
    return _supervised(data, config, trainer, config.epochs, None)


def train(
    model: nn.Module, tensors: Mapping[str, Tensor], watch: Watch, *, config: WarmupConfig | ControlConfig, mirror: bool
) -> dict[str, Any]:
    """``warm_up`` or ``train_control``, by the config's type, in a form that runs in several processes.

    Args:
        model: Freshly initialised, on the training device.
        tensors: ``images`` and ``labels`` as in ``TrainingSet``, on the CPU, and those of ``watched_sample``.
        watch: Progress and resumable state.
        config: Recipe and epochs.
        mirror: Whether a horizontal flip keeps the class.

    Returns:
        ``weights`` of the EMA model, ``device``, ``history`` as ``History.record`` gives it, and for a warm-up
        ``traces``: ``Traces`` as a dict.
    """
    device = next(model.parameters()).device
    data = TrainingSet(images=tensors["images"].to(device), labels=tensors["labels"], mirror=mirror)
    history = History(watched=watched_in(tensors))
    if isinstance(config, ControlConfig):
        ema = train_control(model, data, config, watch, history)
        return {"weights": ema.state_dict(), "device": device.type, "history": history.record()}
    ema, traces = warm_up(model, data, config, watch, history)
    return {
        "weights": ema.state_dict(),
        "device": device.type,
        "history": history.record(),
        "traces": asdict(traces),
    }
