"""Image classifiers by name; one file per family. Every model takes float images in [0, 1], NCHW."""

from __future__ import annotations

from components.common.models.base import MODELS, ModelSpec, build_model

__all__ = ["MODELS", "ModelSpec", "build_model"]
