"""Fixtures that more than one test file uses: a real object store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from components.common.storage.addresses import join
from components.common.storage.embedded import EmbeddedStore
from components.common.storage.store import Store


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
