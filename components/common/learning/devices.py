"""Where a stage computes, and on how many devices."""

from __future__ import annotations

import logging
import os

import torch

from components.common.contracts.errors import ConfigError

__all__ = ["PROCESSES", "pick_device", "process_count"]

logger = logging.getLogger(__name__)

PROCESSES = "UNTAINT_PROCESSES"
"""Environment variable: processes of a training, one per device; by default as many as CUDA devices are visible."""


def pick_device() -> torch.device:
    """The CUDA device of this process's ``LOCAL_RANK``, the first one without; the CPU where there is none."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        logger.info("device: %s", torch.cuda.get_device_name(device))
        return device
    return torch.device("cpu")


def process_count() -> int:
    """How many processes a training takes: what ``UNTAINT_PROCESSES`` says, else one per visible CUDA device.

    Raises:
        ConfigError: The variable is no positive whole number, or larger than the number of CUDA devices.
    """
    devices = torch.cuda.device_count()
    wanted = os.environ.get(PROCESSES, "")
    if not wanted:
        return max(1, devices)
    if not (wanted.isascii() and wanted.isdigit() and int(wanted) >= 1) or 0 < devices < int(wanted):
        raise ConfigError(
            PROCESSES,
            expected=f"a whole number of at least 1{f' and at most {devices}, the GPUs' if devices else ''}",
            found=repr(wanted[:20]),
            hint="Correct the environment variable, or unset it.",
        )
    return int(wanted)
