"""``model.onnx``: the same program as ``model.pt2`` in the Open Neural Network Exchange format.

Input ``images``, output ``logits``, as there; the batch size is free.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.common.exporters.base import EXPORTERS, Exporter

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__ = ["OPSET"]

OPSET = 25
"""Version of the operators: the newest that torch's exporter (onnxscript 0.7) writes by itself."""


def _write(classifier: Classifier) -> Mapping[str, bytes]:
    import torch

    # Both tell every step of a rewriting at level INFO, in words that a run's log should not have.
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)
    written = torch.onnx.export(
        classifier.program,
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    if written is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = written.model_proto
    _tidy(model.graph)
    # Protobuf promises no order of map entries without it.
    return {"model_onnx": model.SerializeToString(deterministic=True)}


def _tidy(graph: Any) -> None:
    """Names the free dimension, and takes out what only tells how torch came to the graph."""
    free = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    values = [*graph.input, *graph.output, *graph.value_info]
    for value in values:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = dimension.dim_param.replace(free, "batch")
    for part in (graph, *graph.node, *values, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


EXPORTERS.register("onnx")(
    Exporter(files={"model_onnx": "model.onnx"}, write=_write, packages=("onnx", "onnxscript"), extra="onnx")
)
