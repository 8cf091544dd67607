"""``model.safetensors`` and ``config.json``: the weights without code, and all that is needed to build the model again.

``components.common.classifier.load`` reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from components.common.exporters.base import EXPORTERS, Exporter

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__: list[str] = []


def _write(classifier: Classifier) -> Mapping[str, bytes]:
    from safetensors.torch import save

    from components.common.classifier.loading import SCHEMA

    state = {name: value.detach().cpu().contiguous() for name, value in classifier.module.state_dict().items()}
    weights = save(state)
    config = {
        "schema": SCHEMA,
        "architecture": classifier.architecture,
        "class_names": list(classifier.class_names),
        "image_size": classifier.spec.image_size,
        "channels": classifier.spec.channels,
        "image_shape": list(classifier.image_shape),
        "mean": list(classifier.spec.mean),
        "std": list(classifier.spec.std),
        "weights": {"file": "model.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
        **asdict(classifier.provenance),
    }
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    return {"model_safetensors": weights, "model_config": text.encode()}


EXPORTERS.register("safetensors")(
    Exporter(files={"model_safetensors": "model.safetensors", "model_config": "config.json"}, write=_write)
)
