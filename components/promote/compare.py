"""Two models on the same rows, by the names of the classes: their numbers may differ from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from components.promote.algorithm import ClassRecall, Measured

if TYPE_CHECKING:
    from torch import nn

    from components.common.models import ModelSpec

__all__ = ["Model", "measure"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model with what its answers mean.

    Attributes:
        network: From float images in [0, 1] to logits, in evaluation mode.
        spec: What it is built for.
        class_names: Name of class k at position k.
    """

    network: nn.Module
    spec: ModelSpec
    class_names: Sequence[str]

    def misfit(self, images: npt.NDArray[np.uint8]) -> str:
        """Why images [n, c, h, w] cannot be shown to it; empty if they can."""
        wanted = (self.spec.channels, self.spec.image_size, self.spec.image_size)
        found = tuple(images.shape[1:])
        return "" if found == wanted else f"takes images of {_size(wanted)}, and these are {_size(found)}"

    def right(self, images: npt.NDArray[np.uint8], names: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
        """Which images it takes for what they are called, bool [n]; a class that it does not know it gets wrong.

        Args:
            images: uint8 [n, c, h, w].
            names: [n], the class of each.
        """
        import torch

        from components.common.learning.scoring import predict

        guesses = predict(self.network, torch.from_numpy(images)).argmax(dim=1).numpy()
        return np.asarray(np.array(self.class_names)[guesses] == names)


def measure(
    where: str,
    images: npt.NDArray[np.uint8],
    names: npt.NDArray[np.str_],
    candidate: Model,
    champion: Model | None,
    expected: Sequence[str] = (),
) -> Measured:
    """Measures the candidate, and the champion if there is one, on the same rows.

    Args:
        where: Which rows these are, in words.
        images: uint8 [n, c, h, w].
        names: [n], the class of each row.
        candidate: The candidate.
        champion: The champion.
        expected: Classes that must have rows; one without any is counted with none.
    """
    right = candidate.right(images, names) if len(names) else np.zeros(0, dtype=bool)
    before, problem = None, ""
    if champion is not None and not (problem := _problem(champion, images)):
        before = champion.right(images, names)
    classes = []
    for name in sorted({*names.tolist(), *expected}):
        rows = names == name
        classes.append(
            ClassRecall(
                name=name,
                rows=int(rows.sum()),
                right=int(right[rows].sum()),
                champion_right=None if before is None else int(before[rows].sum()),
            )
        )
    return Measured(
        where=where,
        classes=classes,
        only_candidate=0 if before is None else int((right & ~before).sum()),
        only_champion=0 if before is None else int((before & ~right).sum()),
        problem=problem,
    )


def _problem(champion: Model, images: npt.NDArray[np.uint8]) -> str:
    if not len(images):
        return "no row is left that both can be measured on"
    misfit = champion.misfit(images)
    return f"the champion {misfit}" if misfit else ""


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
