"""Augmentation of whole batches on the device: no per-sample Python, a few per cent of a training step.

``weak`` is the usual crop (and mirror where the classes allow it). ``strong`` adds what FixMatch's unlabelled branch
needs: an affine warp, a colour and contrast change and a Cutout square, drawn per sample. The warp also moves and
blurs small triggers, which is why the strong branch carries no backdoor of a fixed position well.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["strong", "to_float", "weak"]


def to_float(images: Tensor) -> Tensor:
    """Scales uint8 images [n, c, h, w] to float32 in [0, 1], channels-last."""
    return images.to(torch.float32).div_(255.0).contiguous(memory_format=torch.channels_last)


def _uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    return torch.empty(shape, device=device).uniform_(low, high, generator=generator)


def weak(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Random crop after reflection padding by an eighth of the side, and a mirror flip for half of the samples.

    Args:
        images: uint8 [n, c, h, w].
        generator: Source of randomness, on the images' device.
        mirror: Whether a horizontally flipped image keeps its class. False for digits.

    Returns:
        float32 [n, c, h, w] in [0, 1], channels-last.
    """
    n, _, height, width = images.shape
    pad = max(1, height // 8)
    device = images.device
    # float16 would do, but reflection padding on a CPU exists for float32 only.
    padded = F.pad(images.to(torch.float32), (pad, pad, pad, pad), mode="reflect")
    top = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator, device=device)
    left = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator, device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    if mirror:
        flipped = torch.rand((n, 1), generator=generator, device=device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    batch = torch.arange(n, device=device)[:, None, None]
    # Advanced indexing around the channel slice moves the channels last: exactly the memory layout that is wanted.
    cropped = padded[batch, :, rows[:, :, None], columns[:, None, :]]
    return cropped.div_(255.0).permute(0, 3, 1, 2)


def strong(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Weak augmentation, then affine warp, brightness, contrast and Cutout, each drawn per sample.

    Ranges follow RandAugment at a middle magnitude (Cubuk et al. 2020): rotation ±20°, shear ±0.2, scale 0.8 to 1.2,
    translation ±12 %, brightness and contrast ±40 %; Cutout (DeVries and Taylor 2017) of up to half the side.

    Args:
        images: uint8 [n, c, h, w].
        generator: Source of randomness, on the images' device.
        mirror: Whether a horizontally flipped image keeps its class.

    Returns:
        float32 [n, c, h, w] in [0, 1], channels-last.
    """
    warped = _affine(weak(images, generator, mirror=mirror), generator)
    n, _, height, width = warped.shape
    device = warped.device
    column = (n, 1, 1, 1)
    contrast = _uniform(column, 0.6, 1.4, generator, device)
    brightness = _uniform(column, -0.2, 0.2, generator, device)
    centre = warped.mean(dim=(1, 2, 3), keepdim=True)
    warped = ((warped - centre) * contrast + centre + brightness).clamp_(0.0, 1.0)
    side = (_uniform((n, 1), 0.0, 0.5, generator, device) * height).round()
    middle_y = _uniform((n, 1), 0.0, float(height), generator, device)
    middle_x = _uniform((n, 1), 0.0, float(width), generator, device)
    inside_y = (torch.arange(height, device=device) + 0.5 - middle_y).abs() < side / 2
    inside_x = (torch.arange(width, device=device) + 0.5 - middle_x).abs() < side / 2
    hole = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return warped.masked_fill(hole, 0.5).contiguous(memory_format=torch.channels_last)


def _affine(images: Tensor, generator: torch.Generator) -> Tensor:
    n = images.shape[0]
    device = images.device
    angle = _uniform((n,), -math.pi / 9, math.pi / 9, generator, device)
    shear = _uniform((n,), -0.2, 0.2, generator, device)
    scale = _uniform((n,), 0.8, 1.2, generator, device)
    shift = _uniform((n, 2), -0.25, 0.25, generator, device)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    first_row = torch.stack([cosine, shear - sine, shift[:, 0]], dim=1)
    second_row = torch.stack([sine, cosine, shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([first_row, second_row], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
