"""``model.pt2``: the model as a ``torch.export`` program, which torch loads and runs without any other code.

Input ``images``: float32 [n, c, h, w] in [0, 1], any n from 1 on; the program normalises them itself. Output: logits,
float32 [n, k].
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.common.exporters.base import EXPORTERS, Exporter

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__: list[str] = []


def _write(classifier: Classifier) -> Mapping[str, bytes]:
    import torch

    buffer = io.BytesIO()
    torch.export.save(classifier.program, buffer)
    return {"model_pt2": buffer.getvalue()}


EXPORTERS.register("pt2")(Exporter(files={"model_pt2": "model.pt2"}, write=_write))
