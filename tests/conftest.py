"""Fixtures that more than one test file uses: a real object store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from components.common.storage.addresses import join
from components.common.storage.embedded import EmbeddedStore
from components.common.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor

# Before torch is imported. Two threads gain a third on idle cores, and lose a factor of four on busy ones, where each
# waits for the other at every operation; and sums over one thread are the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """One real SeaweedFS for the session; the process's environment points at it."""
    with (
        EmbeddedStore(tmp_path_factory.mktemp("s3") / "data", bucket="untaint-tests") as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for variable, value in server.environment().items():
            patch.setenv(variable, value)
        yield server


@pytest.fixture(scope="session")
def s3(s3_server: EmbeddedStore) -> Store:
    """A store at the root of the session's bucket."""
    return Store(s3_server.root)


@pytest.fixture
def store(s3: Store) -> Store:
    """A store under a prefix that no other test uses."""
    return Store(join(s3.root, uuid.uuid4().hex))


@pytest.fixture(scope="session")
def many_digits() -> tuple[Tensor, Tensor]:
    """2,000 real MNIST digits, uint8 [2000, 1, 28, 28] and int64 [2000]; 200 of each class, shuffled."""
    import numpy as np
    import torch

    from components.common.datasets.base import load

    dataset = load("mnist5k", train_limit=2000, holdout_limit=10, image_size=0, seed=0)
    order = torch.randperm(dataset.n_train, generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(dataset.images[: dataset.n_train])[order]
    return images, torch.from_numpy(dataset.labels[: dataset.n_train].astype(np.int64))[order]


@pytest.fixture(scope="session")
def digits(many_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """200 real MNIST digits, uint8 [200, 1, 28, 28] and int64 [200]."""
    return many_digits[0][:200], many_digits[1][:200]
