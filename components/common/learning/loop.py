"""The one training loop: steps, schedule, EMA and resumable state.

Everything random in a step is a function of (seed, phase, step): the order of the samples comes from a generator
seeded by the epoch, the augmentation from one seeded by the step. So a resumed run needs the step number and no
generator state, and repeats the uninterrupted one bit for bit on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.common.contracts.configs import TrainRecipe
from components.common.contracts.errors import ResourceError, UntaintError
from components.common.learning.checkpoint import from_bytes, to_bytes
from components.common.learning.seeding import stream
from components.common.learning.watch import Watch

__all__ = ["EpochOrder", "Trainer", "constant_after_ramp", "one_cycle"]

Schedule = Callable[[int, int], float]


def one_cycle(step: int, total: int) -> float:
    """Share of the peak rate: linear ramp over the first tenth, then a cosine to zero."""
    ramp = max(1, total // 10)
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1.0 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def constant_after_ramp(step: int, total: int) -> float:
    """Share of the peak rate: linear ramp over the first tenth, then constant, so that no epoch is special."""
    return min(1.0, (step + 1) / max(1, total // 10))


class EpochOrder:
    """Which samples each step sees: a fresh permutation per epoch, the remainder of an epoch dropped.

    Args:
        size: Number of samples.
        batch_size: Samples per step; cut to ``size`` for tiny sets.
        seed: The run's seed.
        phase: Name of the stream.
    """

    def __init__(self, size: int, batch_size: int, seed: int, phase: str) -> None:
        self.batch_size = min(batch_size, size)
        self.steps_per_epoch = size // self.batch_size
        self._size = size
        self._seed = seed
        self._phase = phase
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """Positions of the step's samples, int64 [batch_size]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self._size, generator=stream(self._seed, self._phase, "order", epoch))
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


@dataclass(kw_only=True)
class Trainer:
    """A model in training with its optimiser and its EMA.

    Attributes:
        model: The model that takes the steps.
        recipe: Optimiser settings and seed.
        phase: Name of the training, for progress and resumable state.
        watch: Progress and state of the stage around it.
        schedule: Share of the peak learning rate for (step, total steps).
        kept: Tensors of the caller's that belong to the resumable state; refilled when a state is restored.
    """

    model: nn.Module
    recipe: TrainRecipe
    phase: str
    watch: Watch
    schedule: Schedule = one_cycle
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Builds the optimiser and the EMA."""
        self.device = next(self.model.parameters()).device
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        # Decaying batch-norm scales and biases only slows the first epochs down (Goyal et al. 2017).
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            nesterov=True,
        )
        average = get_ema_multi_avg_fn(self.recipe.ema_decay)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.step = 0

    def run(
        self,
        total_steps: int,
        loss_at: Callable[[int, torch.Generator], Tensor],
        after_step: Callable[[int], None] | None = None,
    ) -> nn.Module:
        """Takes the steps that are left, from the kept state if there is one.

        Args:
            total_steps: Steps of the whole training.
            loss_at: The scalar loss of a step; gets the step's own generator.
            after_step: Called with the number of steps done, before any state is kept.

        Returns:
            The EMA of the model, in evaluation mode.

        Raises:
            UntaintError: The loss is not finite.
            ResourceError: The device ran out of memory.
        """
        self._restore()
        self.model.train()
        while self.step < total_steps:
            rate = self.recipe.learning_rate * self.schedule(self.step, total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            generator = stream(self.recipe.seed, self.phase, "step", self.step, device=self.device)
            figures = self._take_step(loss_at, generator)
            self.step += 1
            if after_step is not None:
                after_step(self.step)
                self.model.train()
            self.watch.progress(self.phase, self.step, total_steps, {"loss": figures})
            if self.step < total_steps and self.watch.wants_state(self.phase):
                self.watch.save(self.phase, self.state())
        return self.ema.module.eval()

    def _take_step(self, loss_at: Callable[[int, torch.Generator], Tensor], generator: torch.Generator) -> float:
        try:
            loss = loss_at(self.step, generator)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise UntaintError(
                    f"training '{self.phase}', step {self.step}",
                    expected="a finite loss",
                    found=str(value),
                    hint="Lower the learning rate of this stage.",
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.ema.update_parameters(self.model)
        except torch.OutOfMemoryError:
            raise ResourceError(
                f"training '{self.phase}' on {self.device}",
                expected=f"memory for batches of {self.recipe.batch_size}",
                found="the device ran out of it",
                hint="Lower batch_size of this stage, or give it a larger device.",
            ) from None
        return value

    def state(self) -> bytes:
        """All that a later process needs to go on exactly here."""
        return to_bytes(
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "kept": self.kept,
            }
        )

    def _restore(self) -> None:
        kept = self.watch.restore(self.phase)
        if kept is None:
            return
        state = from_bytes(kept, subject=f"resumable state of '{self.phase}'", device=self.device)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kept.update(state["kept"])
        self.step = int(state["step"])
