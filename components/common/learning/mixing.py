"""How firmly a sample holds its given label when its content is replaced, or when faint noise is laid over it.

A clean image loses its label with its object. A poisoned one keeps it as long as its trigger is there, whatever the
object: that is what a backdoor is, so no property of one kind of trigger is needed.

The other way round, noise that hardly shows leaves an object what it was, but not a trigger that is made not to be
seen: what tells a warped or filtered image from others lies in the finest detail.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.common.learning.augment import to_float
from components.common.learning.seeding import stream

__all__ = ["hold_under_mixing", "mix", "partners"]

# Half sides of the replaced (border) and kept (centre) squares, as shares of the image's side: 36 % and 19 % of the
# area. The larger square hides the object and leaves room for a patch in a corner.
_HALF_REPLACED = 0.30
_HALF_KEPT = 0.22
# Standard deviation of the noise, in units of the pixel range: 12 of 255 grey levels (docs/LOG.md).
_NOISE = 12 / 255
_BATCH = 500


def partners(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For every sample a random other one with another given label, int64 [n].

    Args:
        labels: int64 [n], on the CPU.
        generator: Source of randomness.
    """
    n = len(labels)
    chosen = torch.randperm(n, generator=generator)
    # With k balanced classes a draw collides once in k, so twenty rounds leave none; a set of one class keeps them.
    for _ in range(20):
        same = (labels[chosen] == labels).nonzero().squeeze(1)
        if len(same) == 0:
            break
        chosen[same] = torch.randint(n, (len(same),), generator=generator)
    return chosen


def mix(kind: str, images: Tensor, others: Tensor) -> Tensor:
    """Mixes images with others.

    Args:
        kind: ``border`` keeps the border of ``images``, ``centre`` their centre, ``blend`` half of everything,
            ``noise`` all, a little disturbed.
        images: float [n, c, h, w] in [0, 1].
        others: The same shape; for ``noise``, standard normal numbers.
    """
    if kind == "noise":
        return (images + _NOISE * others).clamp(0.0, 1.0)
    if kind == "blend":
        return 0.5 * images + 0.5 * others
    height, width = images.shape[2:]
    outer, inner, half = (images, others, _HALF_REPLACED) if kind == "border" else (others, images, _HALF_KEPT)
    rows = slice(height // 2 - int(height * half), height // 2 + int(height * half))
    columns = slice(width // 2 - int(width * half), width // 2 + int(width * half))
    mixed = outer.clone()
    mixed[:, :, rows, columns] = inner[:, :, rows, columns]
    return mixed


@torch.no_grad()
def hold_under_mixing(
    model: nn.Module, images: Tensor, labels: Tensor, kinds: tuple[str, ...], rounds: int, seed: int
) -> dict[str, Tensor]:
    """Mean probability of the given label over ``rounds`` partners, or draws of noise, for each kind of mixing.

    Args:
        model: From float images in [0, 1] to logits.
        images: uint8 [n, c, h, w].
        labels: int64 [n], the given labels, on the CPU.
        kinds: Kinds of mixing.
        rounds: Partners per sample.
        seed: The run's seed.

    Returns:
        Kind to float32 [n] in [0, 1] on the CPU.
    """
    device = next(model.parameters()).device
    model.eval()
    hold = {kind: torch.zeros(len(images)) for kind in kinds}
    for kind in kinds:
        for turn in range(rounds):
            generator = stream(seed, "mixing", kind, turn)
            others = partners(labels, generator)
            for start in range(0, len(images), _BATCH):
                rows = slice(start, start + _BATCH)
                here = to_float(images[rows].to(device))
                if kind == "noise":
                    # Drawn on the CPU, so that every device sees the same.
                    there = torch.randn(here.shape, generator=generator).to(device)
                else:
                    there = to_float(images[others[rows]].to(device))
                probabilities = model(mix(kind, here, there)).float().softmax(dim=1).cpu()
                given = probabilities.gather(1, labels[rows, None]).squeeze(1)
                hold[kind][rows] += given / rounds
    return {kind: values.clamp_(0.0, 1.0) for kind, values in hold.items()}
