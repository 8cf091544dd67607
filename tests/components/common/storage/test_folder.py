"""A folder in the place of the object store does what the real store does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from components.common.contracts.errors import ConfigError, ConflictError, ContractError, StorageError
from components.common.storage.addresses import join
from components.common.storage.folder import FolderStore, open_store
from components.common.storage.store import Store


@pytest.fixture(params=["folder", "s3"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return FolderStore(f"file://{tmp_path}/objects") if request.param == "folder" else request.getfixturevalue("store")


def test_objects_are_written_read_listed_and_deleted(either: Store, tmp_path: Path) -> None:
    a, b = join(either.root, "runs", "one", "a.bin"), join(either.root, "runs", "two", "b.bin")
    assert either.find(a) is None
    assert either.head(a) is None
    assert not either.exists(a)
    either.put(a, b"0123456789")
    path = tmp_path / "given"
    path.write_bytes(b"xyz")
    either.upload_file(b, path)
    assert either.get(a) == b"0123456789"
    assert either.get_range(a, 2, 3) == b"234"
    found = list(either.list(join(either.root, "runs") + "/"))
    assert [(info.uri, info.size_bytes) for info in found] == [(a, 10), (b, 3)]
    assert all(info.last_modified.tzinfo is not None for info in found)
    assert [info.uri for info in either.list(join(either.root, "runs", "t"))] == [b]
    either.download_file(b, tmp_path / "taken", size_bytes=3)
    assert (tmp_path / "taken").read_bytes() == b"xyz"
    either.delete(a)
    either.delete(a)
    assert [info.uri for info in either.list(join(either.root, "runs") + "/")] == [b]


def test_conditional_writes_let_one_writer_win(either: Store) -> None:
    uri = join(either.root, "m.json")
    assert either.put_if_absent(uri, b"first")
    assert not either.put_if_absent(uri, b"second")
    data, etag = either.get_with_etag(uri)
    assert data == b"first"
    either.put_if_match(uri, b"third!", etag)
    with pytest.raises(ConflictError):
        either.put_if_match(uri, b"fourth", etag)
    assert either.get(uri) == b"third!"


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (lambda store, uri, path: store.get(uri, "0" * 64), ContractError),
        (lambda store, uri, path: store.get(f"{uri}x"), StorageError),
        (lambda store, uri, path: store.get_range(uri, 3, 9), ContractError),
        (lambda store, uri, path: store.get_range(f"{uri}x", 0, 1), StorageError),
        (lambda store, uri, path: store.download_file(uri, path, "0" * 64), ContractError),
        (lambda store, uri, path: store.download_file(uri, path, None, 99), ContractError),
    ],
)
def test_what_is_damaged_or_missing_is_said(
    either: Store, tmp_path: Path, use: Callable[[Store, str, Path], object], problem: type[Exception]
) -> None:
    uri = join(either.root, "o.bin")
    either.put(uri, b"12345")
    with pytest.raises(problem):
        use(either, uri, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def test_the_root_says_which_store_is_meant(tmp_path: Path) -> None:
    folder = open_store(f"file://{tmp_path}")
    assert isinstance(folder, FolderStore)
    assert pickle.loads(pickle.dumps(folder)).root == folder.root  # noqa: S301 - our own
    assert type(open_store("s3://bucket/x")) is Store
    with pytest.raises(ConfigError, match="absolute"):
        open_store("file://here")
