"""Semi-supervised fine-tuning: labels of trusted samples, images of all.

Every step draws from the whole training set. Samples whose label is trusted count with cross-entropy on a weak
augmentation, each class as much as any other; the others count as in FixMatch (Sohn et al. 2020): what the EMA is sure
of on a weak augmentation is the pseudo-label of a strong one. A suspect's given label enters no loss. One pass costs
one pass of ordinary training plus a forward pass of the suspects, so the cost does not depend on how many there are.

Labels that are doubted as a kind, of a class that holds mislabelled samples or changed by a rule, are looked at again
every few passes: where the better model sees what is doubted, the label is taken away. None is ever given back, since
a quarter of the poison brings the whole backdoor back (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.learning.augment import strong, weak
from components.common.learning.doubts import is_doubted
from components.common.learning.history import History, watched_in
from components.common.learning.loop import EpochOrder, Trainer
from components.common.learning.scoring import predict
from components.common.learning.watch import Watch
from components.finetune.config import FinetuneConfig

__all__ = ["FineTuned", "fine_tune", "train"]

# A class of which little is left is not worth more than this many times its share: its few samples would be learned
# by heart.
_MOST_WEIGHT = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuned:
    """The outcome of fine-tuning on n samples.

    Attributes:
        model: The EMA model, in evaluation mode.
        labelled: bool [n], on the CPU: whose label was trusted to the end.
        lost: int64 [looks], how many lost their label at each look; 0 says that the split stood still.
    """

    model: nn.Module
    labelled: Tensor
    lost: Tensor


class _Pool:
    """The labelled pool as the loss sees it, from the trainer's resumable state."""

    def __init__(self, trainer: Trainer, classes: int) -> None:
        self._trainer = trainer
        self._classes = classes
        self._seen: Tensor | None = None
        self.known = self.weight = torch.empty(0)
        self.refresh()

    def refresh(self) -> None:
        """Takes the state over where it has been replaced; restoring one does that."""
        kept = self._trainer.kept["known"]
        if kept is self._seen:
            return
        self._seen = kept
        self.known = kept.to(self._trainer.device)
        self.weight = _balance(kept, self._classes).to(self._trainer.device)


def _balance(known: Tensor, classes: int) -> Tensor:
    """Weight of each class's labelled samples, float32 [k]: all classes count alike, 1 on the average sample.

    Only where labels were taken away: otherwise this is ordinary training, and the classes stay as they are.
    """
    if bool((known >= 0).all()) or not bool((known >= 0).any()):
        return torch.ones(classes)
    counts = torch.bincount(known[known >= 0], minlength=classes).float()
    present = counts > 0
    weight = (counts.sum() / present.sum() / counts.clamp_min(1.0)).clamp(1.0 / _MOST_WEIGHT, _MOST_WEIGHT)
    return torch.where(present, weight / ((weight * counts).sum() / counts.sum()), 0.0)


def fine_tune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    labelled: Tensor,
    config: FinetuneConfig,
    *,
    mirror: bool,
    watch: Watch,
    doubtful: Tensor | None = None,
    history: History | None = None,
) -> FineTuned:
    """Trains a model on trusted labels and unlabelled suspects.

    Args:
        model: The unlearned model; trained in place.
        images: uint8 [n, c, h, w], on the training device.
        labels: int64 [n], the given labels, on the CPU.
        labelled: bool [n], on the CPU; True where the given label is trusted.
        config: Recipe, epochs and FixMatch settings.
        mirror: Whether a horizontal flip keeps the class.
        watch: Progress and resumable state.
        doubtful: float32 [k, k], on the CPU, as ``is_doubted`` takes it; nothing is doubted by default.
        history: Filled with loss and accuracy by epoch; None for no record.
    """
    model.requires_grad_(requires_grad=True)
    order = EpochOrder(len(labels), config.batch_size, config.seed, "finetune")
    device = next(model.parameters()).device
    looks = config.epochs // config.resplit_epochs if doubtful is not None and bool((doubtful < 1).any()) else 0
    # Not even by mistake: what a suspect claims to be is gone before the first step.
    kept = {"known": labels.masked_fill(~labelled, -1), "lost": torch.full((looks,), -1)}
    if history is not None:
        history.begin(config.epochs, order.steps_per_epoch)
    trainer = Trainer(model=model, recipe=config, phase="finetune", watch=watch, kept=kept, history=history)
    pool = _Pool(trainer, int(labels.max()) + 1)

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        pool.refresh()
        rows = rows.to(device)
        trusted = pool.known[rows] >= 0
        with_label, without = rows[trusted], rows[~trusted]
        views = [weak(images[with_label], generator, mirror=mirror)]
        if len(without):
            guesses, sure = _pseudo_labels(trainer, images[without], generator, config, mirror)
            views.append(strong(images[without], generator, mirror=mirror))
        logits = trainer.logits(torch.cat(views))
        given = pool.known[with_label]
        each = F.cross_entropy(logits[: len(with_label)], given, reduction="none")
        total = (each * pool.weight[given]).sum()
        if len(without):
            each = F.cross_entropy(logits[len(with_label) :], guesses, reduction="none")
            total = total + config.unlabelled_weight * (each * sure).sum()
        return total / len(rows)

    def after_step(done: int) -> None:
        look, rest = divmod(done, order.steps_per_epoch * config.resplit_epochs)
        if doubtful is not None and rest == 0 and look <= looks:
            known, lost = trainer.kept["known"], trainer.kept["lost"].clone()
            fallen = _fallen(trainer.ema.module, images, known, doubtful)
            lost[look - 1] = int(fallen.sum())
            trainer.kept.update(known=known.masked_fill(fallen, -1), lost=lost)

    ema = trainer.run(config.epochs * order.steps_per_epoch, order.batch, loss_at, after_step if looks else None)
    return FineTuned(model=ema, labelled=trainer.kept["known"] >= 0, lost=trainer.kept["lost"])


def _fallen(model: nn.Module, images: Tensor, known: Tensor, doubtful: Tensor) -> Tensor:
    """Which labelled samples look to the model like what their label is doubted for; bool [n] on the CPU."""
    asked = (known >= 0) & (doubtful < 1).any(dim=0)[known.clamp_min(0)]
    rows = asked.nonzero().squeeze(1)
    fallen = torch.zeros(len(known), dtype=torch.bool)
    if len(rows):
        probabilities = predict(model, images[rows.to(images.device)]).softmax(dim=1)
        fallen[rows] = is_doubted(probabilities, known[rows], doubtful)
    return fallen


@torch.no_grad()
def _pseudo_labels(
    trainer: Trainer, images: Tensor, generator: torch.Generator, config: FinetuneConfig, mirror: bool
) -> tuple[Tensor, Tensor]:
    """The EMA's guess for each image, int64 [m], and whether it is sure of it, bool [m]."""
    teacher = trainer.ema.module.eval()
    probabilities = trainer.logits(weak(images, generator, mirror=mirror), teacher).softmax(dim=1)
    confidence, guesses = probabilities.max(dim=1)
    return guesses, confidence >= config.confidence


def train(
    model: nn.Module, tensors: Mapping[str, Tensor], watch: Watch, *, config: FinetuneConfig, mirror: bool
) -> dict[str, Any]:
    """``fine_tune`` in a form that runs in several processes.

    Args:
        model: The unlearned model, on the training device.
        tensors: ``images``, ``labels``, ``labelled`` and ``doubtful`` as ``fine_tune`` takes them, on the CPU, and
            those of ``watched_sample``.
        watch: Progress and resumable state.
        config: Recipe, epochs and FixMatch settings.
        mirror: Whether a horizontal flip keeps the class.

    Returns:
        ``weights`` of the EMA model, ``device``, ``history`` as ``History.record`` gives it, and ``labelled`` and
        ``lost`` as in ``FineTuned``.
    """
    device = next(model.parameters()).device
    images = tensors["images"].to(device)
    history = History(watched=watched_in(tensors))
    tuned = fine_tune(
        model,
        images,
        tensors["labels"],
        tensors["labelled"],
        config,
        mirror=mirror,
        watch=watch,
        doubtful=tensors["doubtful"],
        history=history,
    )
    return {
        "weights": tuned.model.state_dict(),
        "device": device.type,
        "history": history.record(),
        "labelled": tuned.labelled,
        "lost": tuned.lost,
    }
