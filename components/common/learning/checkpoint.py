"""Checkpoints as bytes. Loading never runs code: ``weights_only=True``, always."""

from __future__ import annotations

import io
import pickle
import warnings
from typing import Any

import torch

from components.common.contracts.errors import ContractError

__all__ = ["from_bytes", "to_bytes"]


def to_bytes(state: dict[str, Any]) -> bytes:
    """Serialises tensors and plain values. Equal states give equal bytes.

    Args:
        state: Nested dicts and lists of tensors, numbers, strings.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, *, subject: str, device: torch.device | None = None) -> dict[str, Any]:
    """Loads what ``to_bytes`` wrote.

    Args:
        data: The bytes; their digest must have been checked, since torch does not notice a flipped bit.
        subject: Where they come from, for messages.
        device: Where tensors go; the CPU by default.

    Raises:
        ContractError: The bytes are no such checkpoint, or hold anything but tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            # torch only warns of pickles that it would never have written itself; here they are refused.
            warnings.simplefilter("error")
            state = torch.load(io.BytesIO(data), map_location=device or "cpu", weights_only=True)
    except (UserWarning, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        raise ContractError(
            subject,
            expected="a checkpoint of tensors and plain values",
            found=f"{type(problem).__name__}: {str(problem).splitlines()[0][:120] if str(problem) else 'no details'}",
            hint="Run the stage that wrote it again; do not load checkpoints from elsewhere.",
        ) from None
    if not isinstance(state, dict):
        raise ContractError(
            subject,
            expected="a checkpoint that is a dict",
            found=type(state).__name__,
            hint="Run the stage that wrote it again.",
        )
    return state
