"""A trained classifier with all that belongs to it: what it was trained on, and what is known of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from components.common.classifier.provenance import Provenance
from components.common.contracts.errors import ConfigError
from components.common.learning.scoring import predict
from components.common.models import ModelSpec

__all__ = ["Classifier"]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained classifier.

    Attributes:
        module: From float images [n, c, h, w] in [0, 1] to logits [n, k]; in evaluation mode.
        architecture: A name of ``components/common/models``.
        spec: What it was built for.
        image_shape: Channels, height and width of the images that it was trained on.
        class_names: Name of class k at position k.
        provenance: Where it comes from.
    """

    module: nn.Module
    architecture: str
    spec: ModelSpec
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    provenance: Provenance

    def predict(self, images: npt.NDArray[np.uint8] | Tensor) -> npt.NDArray[np.float32]:
        """Probability of every class for every image.

        Args:
            images: uint8 [n, c, h, w], with the channels and the size that the classifier was trained on.

        Returns:
            float32 [n, k], each row sums to one.

        Raises:
            ConfigError: Images of another type or shape.
        """
        given = images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, requirements=("C", "W")))
        if given.dtype != torch.uint8 or tuple(given.shape[1:]) != self.image_shape:
            raise ConfigError(
                "the images to classify",
                expected=f"uint8 of the shape [n, {', '.join(map(str, self.image_shape))}]",
                found=f"{str(given.dtype).removeprefix('torch.')} of the shape {list(given.shape)}",
                hint="`untaint predict` reads image files and brings them to that form.",
            )
        if not len(given):
            return np.zeros((0, len(self.class_names)), dtype=np.float32)
        probabilities: npt.NDArray[np.float32] = predict(self.module, given).softmax(dim=1).numpy()
        return probabilities

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The classifier as a graph that needs no code of this project: from ``images`` to logits, any batch size.

        Without what says where its operations stand in the source: that would tell of the machine that exported it,
        and differ from one to the next.
        """
        plain = copy.deepcopy(self.module).cpu().eval().requires_grad_(requires_grad=False)
        plain = plain.to(memory_format=torch.contiguous_format)
        # Two images: with an example of one, the exporter takes the batch size for a constant.
        example = torch.zeros(2, *self.image_shape)
        exported = torch.export.export(_Named(plain), (example,), dynamic_shapes={"images": {0: _BATCH}}, strict=False)
        for module in exported.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                for key in _ORIGINS:
                    node.meta.pop(key, None)
        return exported


_BATCH = torch.export.Dim("batch", min=1)
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class _Named(nn.Module):
    """Names the input of a module."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits
