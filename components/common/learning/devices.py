"""Where a stage computes."""

from __future__ import annotations

import logging

import torch

__all__ = ["pick_device"]

logger = logging.getLogger(__name__)


def pick_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    if torch.cuda.is_available():
        logger.info("device: %s", torch.cuda.get_device_name(0))
        return torch.device("cuda", 0)
    return torch.device("cpu")
