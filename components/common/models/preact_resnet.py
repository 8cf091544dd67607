"""A pre-activation residual network (He et al. 2016, *Identity Mappings in Deep Residual Networks*) of 18 layers."""

from __future__ import annotations

from torch import nn

from components.common.models.base import MODELS, ModelSpec, takes
from components.common.models.wide_resnet import WideBlock

__all__ = ["preact_resnet18"]


@MODELS.register("preact_resnet18")
@takes(least=16)
def preact_resnet18(spec: ModelSpec) -> nn.Module:
    """PreAct-ResNet-18 with a 3x3 stem and no pooling before the blocks, as is usual for images of about 32 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(spec.channels, 64, 3, padding=1, bias=False)]
    inputs = 64
    for group, outputs in enumerate((64, 128, 256, 512)):
        for block in range(2):
            layers.append(WideBlock(inputs, outputs, 2 if group > 0 and block == 0 else 1))
            inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(inputs, spec.num_classes))
