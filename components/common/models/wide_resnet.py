"""Wide residual networks (Zagoruyko and Komodakis 2016) for images of about 32 pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from components.common.models.base import MODELS, ModelSpec, takes

__all__ = ["WideBlock", "wrn16_1", "wrn28_2"]


class WideBlock(nn.Module):
    """A pre-activation residual block of two 3x3 convolutions.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        active = F.relu(self.norm1(features))
        skipped = features if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return skipped + changed


def _wide(depth: int, width: int, summary: str) -> Callable[[ModelSpec], nn.Module]:
    blocks = (depth - 4) // 6

    @takes(least=8)
    def build(spec: ModelSpec) -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, 16, 3, padding=1, bias=False)]
        inputs = 16
        for group, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(blocks):
                layers.append(WideBlock(inputs, outputs, 2 if group > 0 and block == 0 else 1))
                inputs = outputs
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(inputs, spec.num_classes))

    # What `untaint list architectures` shows.
    build.__doc__ = summary
    return build


wrn16_1 = MODELS.register("wrn16_1")(_wide(16, 1, "Wide residual network of 16 layers, width 1, 0.18 M parameters."))
wrn28_2 = MODELS.register("wrn28_2")(_wide(28, 2, "Wide residual network of 28 layers, width 2, 1.5 M parameters."))
