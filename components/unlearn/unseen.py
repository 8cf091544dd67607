"""Neighbours of a sample in the features of a model that never saw its label.

A trigger cannot help its sample there, since no label was ever taught with it: what is left is what the image shows.
Clean members of the class are still neighbours of each other, and a sample of another class is among its own kind
(k-nearest neighbours against label errors: Bahri et al., *Deep k-NN for Noisy Labels*, ICML 2020).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.learning.augment import weak
from components.common.learning.config import TrainRecipe
from components.common.learning.loop import EpochOrder, Trainer
from components.common.learning.scoring import penultimate_features
from components.common.learning.seeding import derive_seed, stream
from components.common.learning.watch import Watch
from components.unlearn.config import UnlearnConfig

__all__ = ["Votes", "unseen_votes", "warm_votes"]

# Neighbours that vote, and at most so many random samples of which they are: time grows with the product.
_NEIGHBOURS = 100
_REFERENCES = 10_000
_CHUNK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Votes:
    """What neighbours say.

    Attributes:
        rows: int64 [m], positions of the samples.
        shares: float32 [m, k] in [0, 1], share of each label among a sample's nearest training samples.
    """

    rows: Tensor
    shares: Tensor


def warm_votes(model: nn.Module, images: Tensor, labels: Tensor, mirror: bool) -> Tensor:
    """Share of each label among every sample's neighbours in a model's own features; float32 [n, k]."""
    return _vote(_features(model, images, mirror), labels, torch.arange(len(labels)))


def unseen_votes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rows: Tensor,
    config: UnlearnConfig,
    phase: str,
    watch: Watch,
    *,
    mirror: bool,
) -> Tensor:
    """Share of each label among the neighbours of some samples, in features learned from all others alone.

    Args:
        model: Gives the architecture; a model with fresh weights is trained.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        rows: int64 [m], the samples that are left out of the training and asked about.
        config: Epochs and seed.
        phase: Name of the training, for its order, its augmentation and its resumable state.
        watch: Progress and resumable state.
        mirror: Whether a horizontal flip keeps the class.

    Returns:
        float32 [m, k].
    """
    seen = torch.ones(len(labels), dtype=torch.bool).index_fill(0, rows, False).nonzero().squeeze(1)
    fresh = _fresh(model, derive_seed(config.seed, phase))
    device = next(fresh.parameters()).device
    recipe = TrainRecipe(seed=config.seed)
    order = EpochOrder(len(seen), recipe.batch_size, config.seed, phase)

    def loss_at(positions: Tensor, generator: torch.Generator) -> Tensor:
        chosen = seen[positions]
        logits = trainer.logits(weak(images[chosen.to(device)], generator, mirror=mirror))
        return F.cross_entropy(logits, labels[chosen].to(device))

    trainer = Trainer(model=fresh, recipe=recipe, phase=phase, watch=watch)
    trained = trainer.run(config.unseen_epochs * order.steps_per_epoch, order.batch, loss_at)
    return _vote(_features(trained, images, mirror), labels, rows)


def _fresh(model: nn.Module, seed: int) -> nn.Module:
    """A copy with new initial weights, without moving torch's global generator."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return fresh.requires_grad_(requires_grad=True)


def _features(model: nn.Module, images: Tensor, mirror: bool) -> Tensor:
    """Penultimate features of unit length; with ``mirror``, summed with those of the mirrored image."""
    features = penultimate_features(model, images)
    if mirror:
        features = features + penultimate_features(model, images.flip(-1))
    return F.normalize(features, dim=1)


def _vote(features: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    chosen = torch.randperm(len(labels), generator=stream(0, "references"))[:_REFERENCES].sort().values
    votes = F.one_hot(labels[chosen], int(labels.max()) + 1).float()
    count = min(_NEIGHBOURS, len(chosen) - 1)
    parts = []
    for some in torch.split(rows, _CHUNK):
        likeness = features[some] @ features[chosen].T
        # Nobody is a neighbour of himself.
        likeness[some[:, None] == chosen] = -2.0
        parts.append(votes[likeness.topk(count, dim=1).indices].mean(dim=1))
    return torch.cat(parts)
