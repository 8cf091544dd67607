"""The one training loop: steps, schedule, EMA and resumable state.

Everything random in a step is a function of (seed, phase, step): the order of the samples comes from a generator
seeded by the epoch, the augmentation from one seeded by the step. So a resumed run needs the step number and no
generator state, and repeats the uninterrupted one bit for bit on the CPU.

The batch of a step may go through in parts: in micro-batches where memory is short, in shares where several processes
train together, or both. Parts are numbered through over all processes, and what a part draws depends on its number
alone. So two processes do what one does in two parts, up to the order in which sums are rounded and up to the running
statistics of batch-norm, which are averaged over processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.common.contracts.errors import ConfigError, ResourceError, UntaintError
from components.common.learning.checkpoint import from_bytes, to_bytes
from components.common.learning.config import TrainRecipe
from components.common.learning.distributed import current_group
from components.common.learning.history import History
from components.common.learning.precision import autocast_for, compiled, pick_precision
from components.common.learning.seeding import stream
from components.common.learning.watch import Watch

__all__ = ["EpochOrder", "Trainer", "constant_after_ramp", "one_cycle"]

logger = logging.getLogger(__name__)

Schedule = Callable[[int, int], float]
Loss = Callable[[Tensor, torch.Generator], Tensor]

# Batch-norm has no statistics of a single sample.
_SMALLEST_PART = 2


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

    Within a ``process_group`` every process makes the same trainer and takes its share of each step; weights, optimiser
    and EMA are equal in all of them after it.

    Attributes:
        model: The model that takes the steps.
        recipe: Optimiser settings, precision and seed.
        phase: Name of the training, for progress and resumable state.
        watch: Progress and state of the stage around it; only that of rank 0 is asked for state.
        schedule: Share of the peak learning rate for (step, total steps).
        kept: Tensors of the caller's that belong to the resumable state; refilled when a state is restored.
        history: Loss and accuracy by epoch, belongs to the resumable state; None keeps none.
        compile_backend: Of torch.compile, where the recipe asks for it.
    """

    model: nn.Module
    recipe: TrainRecipe
    phase: str
    watch: Watch
    schedule: Schedule = one_cycle
    kept: dict[str, Tensor] = field(default_factory=dict)
    history: History | None = None
    compile_backend: str = "inductor"

    def __post_init__(self) -> None:
        """Builds the optimiser and the EMA."""
        self.device = next(self.model.parameters()).device
        self.group = current_group()
        self.precision = pick_precision(self.recipe.precision, self.device)
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
        self.parts = 0
        forward = compiled(self.model, self.device, self.compile_backend) if self.recipe.compile else self.model
        self._forward: Callable[[Tensor], Tensor] = forward

    def logits(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """Logits in the recipe's precision, compiled if it says so.

        Args:
            images: float32 [n, c, h, w] in [0, 1].
            model: Another model than the one in training, never compiled.

        Returns:
            float32 [n, k], so that losses are computed in float32 whatever the precision.
        """
        with autocast_for(self.device, self.precision):
            return (model or self._forward)(images).float()

    def run(
        self,
        total_steps: int,
        batch_at: Callable[[int], Tensor],
        loss_at: Loss,
        after_step: Callable[[int], None] | None = None,
    ) -> nn.Module:
        """Takes the steps that are left, from the kept state if there is one.

        Args:
            total_steps: Steps of the whole training.
            batch_at: The positions of a step's samples, int64 [batch]; ``EpochOrder.batch``.
            loss_at: The mean loss over some of them, a scalar; gets their positions, int64 on the CPU, and a generator
                of their own on the model's device. Called more than once per step where a step goes in parts.
            after_step: Called with the number of steps done, before any state is kept.

        Returns:
            The EMA of the model, in evaluation mode.

        Raises:
            ConfigError: The batch is too small for the number of processes.
            UntaintError: The loss is not finite, or the weights are not.
            ResourceError: The device ran out of memory for the smallest part of a batch.
        """
        self._restore()
        self.model.train()
        while self.step < total_steps:
            rate = self.recipe.learning_rate * self.schedule(self.step, total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            figures = self._take_step(batch_at(self.step), loss_at)
            self.step += 1
            if self.history is not None:
                self.history.note(self.step, figures, self.ema.module, measure=self.group.leads)
            if after_step is not None:
                after_step(self.step)
                self.model.train()
            self.watch.progress(self.phase, self.step, total_steps, {"loss": figures})
            if self.step < total_steps and self.watch.wants_state(self.phase):
                self.watch.save(self.phase, self.state())
        self._check_weights()
        return self.ema.module.eval()

    def _check_weights(self) -> None:
        """The last step's update is seen by no loss; weights that are not finite would still classify, and wrongly."""
        for name, weight in self.ema.module.state_dict().items():
            if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
                raise UntaintError(
                    f"training '{self.phase}', after step {self.step}",
                    expected="finite weights",
                    found=f"others in {name}",
                    hint="Lower the learning rate of this stage.",
                )

    def _take_step(self, rows: Tensor, loss_at: Loss) -> float:
        if self.parts == 0:
            self.parts = self._first_parts(len(rows))
        value = self._gradients(rows, loss_at)
        while value is None:
            self._halve(len(rows))
            value = self._gradients(rows, loss_at)
        if not math.isfinite(value):
            raise UntaintError(
                f"training '{self.phase}', step {self.step}",
                expected="a finite loss",
                found=str(value),
                hint="Lower the learning rate of this stage.",
            )
        self._join_processes()
        try:
            self.optimizer.step()
            self.ema.update_parameters(self.model)
        except torch.OutOfMemoryError:
            # The optimiser works in place: half of a step cannot be taken back.
            raise self._out_of_memory(len(rows)) from None
        return value

    def _gradients(self, rows: Tensor, loss_at: Loss) -> float | None:
        """Leaves this process's share of the gradient; gives the whole batch's loss, None where memory ran out.

        Processes agree on the outcome, so that all go on or all try again.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        value, ran_out = 0.0, False
        try:
            for number, part in self._share(rows):
                names = ("part", number) if number else ()
                generator = stream(self.recipe.seed, self.phase, "step", self.step, *names, device=self.device)
                # Times one where a step goes in one part, which changes no bit.
                loss = loss_at(part, generator) * (len(part) / len(rows))
                value += float(loss.detach())
                loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            ran_out = True
        outcome = torch.tensor([float(ran_out), value], dtype=torch.float64)
        if self.group.size > 1:
            outcome = outcome.to(self.device)
            self.group.add_up([outcome])
        if outcome[0] == 0:
            return float(outcome[1])
        self.optimizer.zero_grad(set_to_none=True)
        # The forward pass that went through has moved batch-norm's statistics; the next attempt moves them again.
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return None

    def _share(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """This process's parts of a batch with their numbers; parts differ by at most one sample in size."""
        parts = rows.tensor_split(self.group.size * self.parts)
        first = self.group.rank * self.parts
        return ((number, parts[number]) for number in range(first, first + self.parts))

    def _most_parts(self, batch: int) -> int:
        return batch // _SMALLEST_PART // self.group.size

    def _first_parts(self, batch: int) -> int:
        most = self._most_parts(batch)
        if most == 0 and self.group.size > 1:
            raise ConfigError(
                f"training '{self.phase}', batch size",
                expected=f"at least {_SMALLEST_PART * self.group.size} for {self.group.size} processes",
                found=str(batch),
                hint="Raise batch_size, or train on fewer devices (UNTAINT_PROCESSES).",
            )
        if not self.recipe.micro_batch:
            return 1
        return max(1, min(most, math.ceil(batch / self.group.size / self.recipe.micro_batch)))

    def _halve(self, batch: int) -> None:
        # Here and not where it ran out: there, a traceback or a local still held what is to be freed.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        parts = min(2 * self.parts, self._most_parts(batch))
        if parts <= self.parts:
            raise self._out_of_memory(batch)
        self.parts = parts
        if self.group.leads:
            logger.info(
                "training '%s': from step %d on, batches of %d go through in parts of %d, all that fit in memory",
                self.phase,
                self.step + 1,
                batch,
                math.ceil(batch / self.group.size / parts),
            )

    def _out_of_memory(self, batch: int) -> ResourceError:
        size = math.ceil(batch / self.group.size / self.parts)
        return ResourceError(
            f"training '{self.phase}' on {self.device}",
            expected=f"memory for {size} images at once, of batches of {batch}",
            found="the device ran out of it",
            hint="Choose a smaller model or image_size, or give this stage a larger device.",
        )

    def _join_processes(self) -> None:
        """Sums the gradients over processes and averages the statistics of batch-norm."""
        if self.group.size == 1:
            return
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        statistics = [
            statistic
            for norm in norms
            for statistic in (norm.running_mean, norm.running_var)
            if isinstance(statistic, Tensor)
        ]
        for statistic in statistics:
            statistic.div_(self.group.size)
        self.group.add_up([*gradients, *statistics])

    def state(self) -> bytes:
        """All that a later process needs to go on exactly here."""
        return to_bytes(
            {
                "step": self.step,
                "parts": self.parts,
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "kept": self.kept,
                "history": self.history.state() if self.history is not None else {},
            }
        )

    def _restore(self) -> None:
        kept = self.group.from_leader(self.watch.restore(self.phase))
        if kept is None:
            return
        state = from_bytes(kept, subject=f"resumable state of '{self.phase}'", device=self.device)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        # They are the caller's, and his are on the CPU.
        self.kept.update({name: tensor.cpu() for name, tensor in state["kept"].items()})
        if self.history is not None:
            self.history.restore(state["history"])
        self.step = int(state["step"])
        self.parts = int(state["parts"])
