"""Deleting objects of the embedded store gives their space on disk back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.common.contracts.errors import StorageError
from components.common.storage.addresses import join
from components.common.storage.compaction import compact
from components.common.storage.embedded import EmbeddedStore
from components.common.storage.store import Store


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_space_of_deleted_objects_is_given_back_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedStore(tmp_path / "store") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store = Store(server.root)
        kept = os.urandom(1_000_000)
        for number in range(12):
            store.put(join(store.root, f"gone-{number}"), os.urandom(1_000_000))
            store.put(join(store.root, f"kept-{number}"), kept)
        for number in range(12):
            store.delete(join(store.root, f"gone-{number}"))
        before = on_disk(tmp_path)
        assert before > 24_000_000
        compact(tmp_path / "store")
        assert on_disk(tmp_path) < before - 10_000_000
        assert all(store.get(join(store.root, f"kept-{number}")) == kept for number in range(12))


def test_a_store_that_does_not_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="space"):
        compact(tmp_path)
