"""torchvision's networks for larger images, freshly initialised, with the channels and classes of the data.

torchvision is imported when one of them is built and not before: every stage lists the models, few build these.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from components.common.models.base import MODELS, ModelSpec, takes

__all__ = ["resnet18", "resnet50", "vit_b_16"]

_PATCH = 16
# A ResNet's stem and blocks divide the side by 32: less than two by two positions are left of smaller images.
_LEAST = 64


@MODELS.register("resnet18")
@takes(least=_LEAST)
def resnet18(spec: ModelSpec) -> nn.Module:
    """ResNet-18 as in torchvision (He, Zhang, Ren and Sun 2016), for images of 64 pixels and more, usually 224."""
    return _resnet("resnet18", spec)


@MODELS.register("resnet50")
@takes(least=_LEAST)
def resnet50(spec: ModelSpec) -> nn.Module:
    """ResNet-50 as in torchvision (He, Zhang, Ren and Sun 2016), for images of 64 pixels and more, usually 224."""
    return _resnet("resnet50", spec)


@MODELS.register("vit_b_16")
@takes(least=2 * _PATCH, multiple=_PATCH)
def vit_b_16(spec: ModelSpec) -> nn.Module:
    """ViT-B/16 as in torchvision (Dosovitskiy and others 2021), for sides that are a multiple of 16, usually 224."""
    from torchvision import models

    model: Any = models.vit_b_16(weights=None, image_size=spec.image_size, num_classes=spec.num_classes)
    if spec.channels != 3:
        stem = nn.Conv2d(spec.channels, model.hidden_dim, _PATCH, _PATCH)
        # As torchvision does for three channels.
        nn.init.trunc_normal_(stem.weight, std=math.sqrt(1 / (spec.channels * _PATCH**2)))
        nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
        model.conv_proj = stem
    network: nn.Module = model
    return network


def _resnet(name: str, spec: ModelSpec) -> nn.Module:
    from torchvision import models

    model: Any = models.get_model(name, weights=None, num_classes=spec.num_classes)
    if spec.channels != 3:
        stem = nn.Conv2d(spec.channels, 64, 7, 2, padding=3, bias=False)
        # As torchvision does for three channels.
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = stem
    network: nn.Module = model
    return network
