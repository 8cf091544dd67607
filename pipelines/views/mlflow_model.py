"""The model as MLflow serves it, from ``model.pt2`` alone: MLflow keeps this file with it and needs no untaint."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import torch


class Program(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Probabilities of all classes, float32 [n, k], for images float32 [n, c, h, w] in [0, 1]."""

    def load_context(self, context: Any) -> None:
        """Loads the program, which holds no code that could be run but its own operations."""
        self._model = torch.export.load(context.artifacts["program"]).module()

    # MLflow takes hints for the signature, which it is given.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Classifies images."""
        images = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
        with torch.no_grad():
            return self._model(images).softmax(dim=1).numpy()


mlflow.models.set_model(Program())
