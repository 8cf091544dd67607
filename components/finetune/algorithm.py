"""Semi-supervised fine-tuning: labels of trusted samples, images of all.

Every step draws from the whole training set. Samples whose label is trusted count with cross-entropy on a weak
augmentation; the others count as in FixMatch (Sohn et al. 2020): what the EMA is sure of on a weak augmentation is the
pseudo-label of a strong one. A suspect's given label enters no loss. One pass costs one pass of ordinary training plus
a forward pass of the suspects, so the cost does not depend on how many suspects there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.contracts.configs import FinetuneConfig
from components.common.learning.augment import strong, weak
from components.common.learning.loop import EpochOrder, Trainer
from components.common.learning.watch import Watch

__all__ = ["fine_tune", "train"]


def fine_tune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    labelled: Tensor,
    config: FinetuneConfig,
    *,
    mirror: bool,
    watch: Watch,
) -> nn.Module:
    """Trains a model on trusted labels and unlabelled suspects.

    Args:
        model: The unlearned model; trained in place.
        images: uint8 [n, c, h, w], on the training device.
        labels: int64 [n], the given labels, on the CPU.
        labelled: bool [n], on the CPU; True where the given label is trusted.
        config: Recipe, epochs and FixMatch settings.
        mirror: Whether a horizontal flip keeps the class.
        watch: Progress and resumable state.

    Returns:
        The EMA model, in evaluation mode.
    """
    model.requires_grad_(requires_grad=True)
    trainer = Trainer(model=model, recipe=config, phase="finetune", watch=watch)
    order = EpochOrder(len(labels), config.batch_size, config.seed, "finetune")
    device = trainer.device
    # Not even by mistake: what a suspect claims to be is gone before the first step.
    known = labels.masked_fill(~labelled, -1).to(device)

    def loss_at(rows: Tensor, generator: torch.Generator) -> Tensor:
        rows = rows.to(device)
        trusted = known[rows] >= 0
        with_label, without = rows[trusted], rows[~trusted]
        views = [weak(images[with_label], generator, mirror=mirror)]
        if len(without):
            guesses, sure = _pseudo_labels(trainer, images[without], generator, config, mirror)
            views.append(strong(images[without], generator, mirror=mirror))
        logits = trainer.logits(torch.cat(views))
        total = F.cross_entropy(logits[: len(with_label)], known[with_label], reduction="sum")
        if len(without):
            each = F.cross_entropy(logits[len(with_label) :], guesses, reduction="none")
            total = total + config.unlabelled_weight * (each * sure).sum()
        return total / len(rows)

    return trainer.run(config.epochs * order.steps_per_epoch, order.batch, loss_at)


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
        tensors: ``images``, ``labels`` and ``labelled`` as ``fine_tune`` takes them, on the CPU.
        watch: Progress and resumable state.
        config: Recipe, epochs and FixMatch settings.
        mirror: Whether a horizontal flip keeps the class.

    Returns:
        ``weights`` of the EMA model, and ``device``.
    """
    device = next(model.parameters()).device
    images = tensors["images"].to(device)
    ema = fine_tune(model, images, tensors["labels"], tensors["labelled"], config, mirror=mirror, watch=watch)
    return {"weights": ema.state_dict(), "device": device.type}
