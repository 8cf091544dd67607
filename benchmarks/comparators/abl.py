"""Anti-backdoor learning (ABL): isolate what is learned first, finish training without it, unlearn it.

Source: Li, Lyu, Koren, Lyu, Li and Ma, *Anti-Backdoor Learning: Training Clean Models on Poisoned Data*, NeurIPS 2021
(arXiv 2110.11571). From the paper: the loss of the first fifth of the epochs, sign(l - gamma) l per sample with gamma
0.5 (local gradient ascent), which keeps clean samples near gamma while backdoored ones fall below; 1 % of lowest loss
is isolated; training goes on without it; the last fifth ascends the isolated samples' loss beside descent on the rest
(global gradient ascent).

Choices where the paper's setting does not fit this budget:

- Epochs are those of the control in all, divided 20 : 60 : 20 as in the paper's 100. The first part has a constant
  rate after a ramp, the second a one-cycle rate, both of the control's peak.
- Losses for the isolation are those of the EMA of the weights, steadier than the last step's.
- Unlearning has a rate of 0.005, a twentieth of training's, in one cycle, so that what it broke is mended at its end.
  A tenth of that, as is usual for ABL, is made for more than the hundred steps there are here: on digits, given ten
  truly poisoned samples, ASR was .69 and .59 after 60 steps, against .04 and .00.
- Unbounded ascent ends in a model of no use, and the paper has no stopping rule. Here an isolated sample counts only
  until its loss is five times that of chance, 5 ln K. Twice was too little where the rest still holds poison, which
  teaches the backdoor again meanwhile (ASR .78); twenty times cost a quarter of the accuracy.
- The last weights are the result, not their EMA, which would lag behind the unlearning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.case import Case, Outcome
from components.common.learning.augment import weak
from components.common.learning.loop import EpochOrder, Trainer, constant_after_ramp
from components.common.learning.scoring import score
from components.common.learning.watch import NullWatch

__all__ = ["SETTINGS", "defend"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Shares are of the control's epochs; ``unlearning_rate``, ``batch`` and ``bound`` are ours."""

    gamma: float = 0.5
    isolation_epochs: float = 0.2
    unlearning_epochs: float = 0.2
    isolation_ratio: float = 0.01
    unlearning_rate: float = 0.005
    batch: int = 32
    bound: float = 5.0


SETTINGS = Settings()


def defend(case: Case) -> Outcome:
    """Isolates, trains, unlearns."""
    total = case.recipe.epochs
    first = max(1, round(SETTINGS.isolation_epochs * total))
    last = max(1, round(SETTINGS.unlearning_epochs * total))
    model = case.fresh_model()
    losses = isolate(case, model, first)
    count = max(1, round(SETTINGS.isolation_ratio * len(losses)))
    isolated = torch.zeros(len(losses), dtype=torch.bool)
    isolated[losses.topk(count, largest=False).indices] = True
    _finishing(case, model, ~isolated, max(1, total - first - last))
    unlearn(case, model, isolated, last)
    return Outcome(model=model.eval(), suspicion=-losses, flagged=isolated)


def isolate(case: Case, model: nn.Module, epochs: int) -> Tensor:
    """Trains with local gradient ascent and gives every sample's loss after it, float32 [n]."""
    data = case.training_set()
    trainer = Trainer(
        model=model, recipe=case.recipe, phase="abl-isolate", watch=NullWatch(), schedule=constant_after_ramp
    )
    order = EpochOrder(len(data.labels), case.recipe.batch_size, case.recipe.seed, "abl-isolate")

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        logits = trainer.logits(weak(data.images[rows], generator, mirror=data.mirror))
        losses = F.cross_entropy(logits, data.labels[rows].to(trainer.device), reduction="none")
        return (torch.sign(losses.detach() - SETTINGS.gamma) * losses).mean()

    ema = trainer.run(epochs * order.steps_per_epoch, order.batch, loss_at)
    return score(ema, data.images, data.labels).loss


def _finishing(case: Case, model: nn.Module, kept: Tensor, epochs: int) -> None:
    data = case.training_set(kept)
    trainer = Trainer(model=model, recipe=case.recipe, phase="abl-train", watch=NullWatch())
    order = EpochOrder(len(data.labels), case.recipe.batch_size, case.recipe.seed, "abl-train")

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        logits = trainer.logits(weak(data.images[rows], generator, mirror=data.mirror))
        return F.cross_entropy(logits, data.labels[rows].to(trainer.device))

    trainer.run(epochs * order.steps_per_epoch, order.batch, loss_at)


def unlearn(case: Case, model: nn.Module, isolated: Tensor, epochs: int) -> None:
    """Raises the loss of the isolated samples, bool [n], up to a bound, and lowers that of the others; in place."""
    rest, suspects = case.training_set(~isolated), case.training_set(isolated)
    recipe = case.recipe.model_copy(update={"learning_rate": SETTINGS.unlearning_rate})
    trainer = Trainer(model=model, recipe=recipe, phase="abl-unlearn", watch=NullWatch())
    order = EpochOrder(len(rest.labels), recipe.batch_size, recipe.seed, "abl-unlearn")
    ceiling = SETTINGS.bound * math.log(len(case.train.class_names))

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        count = min(SETTINGS.batch, len(suspects.labels))
        drawn = torch.randint(len(suspects.labels), (count,), generator=generator, device=trainer.device)
        # One pass for both, so that batch-norm sees the rest's statistics and not those of suspects alone.
        images = torch.cat([rest.images[rows], suspects.images[drawn]])
        labels = torch.cat([rest.labels[rows], suspects.labels[drawn.cpu()]]).to(trainer.device)
        losses = F.cross_entropy(trainer.logits(weak(images, generator, mirror=rest.mirror)), labels, reduction="none")
        return losses[: len(rows)].mean() - losses[len(rows) :].clamp(max=ceiling).mean()

    trainer.run(epochs * order.steps_per_epoch, order.batch, loss_at)
