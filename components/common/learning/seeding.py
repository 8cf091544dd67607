"""Seeds and determinism: a seed gives the same bits on the CPU, twice in a row and after a resume."""

from __future__ import annotations

import hashlib
import os

import torch

__all__ = ["derive_seed", "make_deterministic", "stream"]


def derive_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2**63) for one purpose, so that streams with different names do not share numbers.

    Args:
        seed: The run's seed.
        names: What the stream is for ("augment", epoch, …).
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: object, device: torch.device | None = None) -> torch.Generator:
    """A torch generator of its own for one purpose."""
    generator = torch.Generator(device=device or "cpu")
    generator.manual_seed(derive_seed(seed, *names))
    return generator


def make_deterministic(seed: int) -> None:
    """Seeds torch's global generator and asks for deterministic kernels.

    ``UNTAINT_THREADS`` sets the number of CPU threads; sums over another number of threads round differently, so
    runs that are to be equal bit for bit need the same number.
    """
    threads = os.environ.get("UNTAINT_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    # cuBLAS is only deterministic with a fixed workspace; it reads this when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(derive_seed(seed, "global"))
