"""Number formats and compilation: what a device does faster, and whether it can.

bfloat16 keeps float32's range, so gradients need no scaling (Kalamkar et al. 2019, arXiv 1905.12322); weights,
optimiser, EMA, losses and batch-norm statistics stay in float32.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from components.common.contracts.errors import ConfigError

__all__ = ["autocast_for", "compiled", "pick_precision"]

logger = logging.getLogger(__name__)


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The format of a model's forward and backward passes.

    Args:
        wanted: ``fp32``, ``bf16``, or ``auto``: bf16 on CUDA devices with hardware for it, fp32 elsewhere. Most CPUs
            emulate bf16, ten times slower than fp32.
        device: Where the model is.

    Returns:
        ``torch.float32`` or ``torch.bfloat16``.

    Raises:
        ConfigError: bf16 is asked for on a CUDA device without it.
    """
    # Without the argument torch counts emulation, which makes a T4 slower than it is in float32.
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and device.type == "cuda" and not has_it:
        raise ConfigError(
            "precision",
            expected="fp32 or auto on this device",
            found=f"bf16 on {torch.cuda.get_device_name(device)}, which has no hardware for it",
            hint="Leave precision at auto.",
        )
    return torch.bfloat16 if wanted == "bf16" or (wanted == "auto" and has_it) else torch.float32


def autocast_for(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """The context of a forward pass in that format; does nothing for float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def compiled(model: nn.Module, device: torch.device, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """A model's forward pass by ``torch.compile``, or the model itself where there is no compiler.

    Args:
        model: Shares its weights with what is returned.
        device: Where it runs.
        backend: Of torch.compile. Only ``inductor`` generates code and needs a compiler.
    """
    if backend == "inductor" and not _has_compiler(device):
        logger.info("torch.compile: no compiler for %s found, going on without", device.type)
        return model
    return torch.compile(model, backend=backend)


def _has_compiler(device: torch.device) -> bool:
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return False
    # Triton builds its launcher with the C compiler, inductor's CPU code needs the C++ one.
    named = os.environ.get("CC" if device.type == "cuda" else "CXX")
    usual = ("cc", "gcc", "clang") if device.type == "cuda" else ("c++", "g++", "clang++")
    return any(shutil.which(name) for name in ((named,) if named else usual))
