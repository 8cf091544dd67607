"""The embedded server: its life, its data, its ports. Each test starts real servers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from components.common.contracts.errors import ConfigError, ResourceError, StorageError
from components.common.storage import embedded
from components.common.storage.embedded import EmbeddedStore
from components.common.storage.store import Store

REPOSITORY = Path(__file__).parents[4]
USER = """
import sys
from components.common.storage.embedded import EmbeddedStore
with EmbeddedStore(sys.argv[1]) as server:
    print(server.url, "found" if server.attached else "started", flush=True)
    sys.stdin.readline()
"""


class User:
    """A process that uses the store of a folder until it is told to leave, or killed."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True,
        )  # fmt: skip
        self.url = self.how = ""

    def joined(self) -> User:
        assert self._process.stdout is not None
        self.url, self.how = self._process.stdout.readline().split()
        return self

    def leave(self) -> int:
        self._process.communicate("leave\n", timeout=60)
        return self._process.returncode

    def killed(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Callable[[], User]]:
    made: list[User] = []

    def start() -> User:
        made.append(User(tmp_path))
        return made[-1]

    yield start
    for one in made:
        one.killed()


def store_of(server: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> Store:
    for variable, value in server.environment().items():
        monkeypatch.setenv(variable, value)
    return Store(server.root)


def open_port(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def ports_of(folder: Path) -> list[int]:
    ports = json.loads((folder / "ports.json").read_text()).values()
    return [*ports, *(port + 10_000 for port in ports)]


def wait_closed(ports: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(open_port(port) for port in ports):
        assert time.monotonic() < deadline, "the server outlived its starter"
        time.sleep(0.05)


def test_data_survive_a_restart_and_ports_move_when_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "data"
    # Names like this one are set by Kubernetes for a Service named s3; weed must not read them as its flags.
    monkeypatch.setenv("S3_PORT", "tcp://10.0.0.1:8333")
    with EmbeddedStore(folder) as server:
        store = store_of(server, monkeypatch)
        # Right before the stop: what was acknowledged has to be there afterwards.
        for n in range(50):
            store.put(f"{server.root}/a{n}", bytes([n]) * 10_000)
        first = ports_of(folder)
        assert all(open_port(port) for port in first)
    assert not any(open_port(port) for port in first)
    assert not [path for path in Path("/tmp").glob("seaweedfs-*.sock") if int(path.stem.split("-")[-1]) in first]  # noqa: S108
    assert oct((folder / "keys.json").stat().st_mode & 0o777) == "0o600"
    assert oct(folder.stat().st_mode & 0o777) == "0o700"

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first[2]))
        taken.listen()
        with EmbeddedStore(folder) as server:
            second = ports_of(folder)
            assert first[0] == second[0]
            assert first[2] != second[2]
            store = store_of(server, monkeypatch)
            for n in range(50):
                assert store.get(f"{server.root}/a{n}") == bytes([n]) * 10_000
            store.put(f"{server.root}/b", b"new")
            assert store.get(f"{server.root}/b") == b"new"


def answers(url: str) -> bool:
    return open_port(int(url.rpartition(":")[2]))


def test_the_last_one_out_stops_the_server_and_not_who_started_it(user: Callable[[], User], tmp_path: Path):
    first = user().joined()
    second = user().joined()
    assert (first.how, second.how, first.url) == ("started", "found", second.url)
    assert first.leave() == 0
    assert answers(second.url), "the one that started the server took it along"
    third = user().joined()
    assert (third.how, third.url) == ("found", first.url)
    assert second.leave() == 0
    assert third.leave() == 0
    # No waiting: who leaves last is back only when the server is gone.
    assert not any(open_port(port) for port in ports_of(tmp_path))
    assert not (tmp_path / "state.json").exists()


def test_a_killed_starter_leaves_the_server_to_the_others(user: Callable[[], User], tmp_path: Path):
    first = user().joined()
    second = user().joined()
    first.killed()
    # Five looks of the guard.
    time.sleep(1)
    assert answers(second.url), "the server went with the process that started it"
    assert second.leave() == 0
    assert not answers(second.url)


def test_it_ends_when_the_last_user_is_killed(user: Callable[[], User], tmp_path: Path):
    first = user().joined()
    second = user().joined()
    assert first.leave() == 0
    second.killed()
    wait_closed(ports_of(tmp_path), 5)


def test_of_three_that_come_at_once_one_starts_the_server_and_all_share_it(user: Callable[[], User], tmp_path: Path):
    users = [user() for _ in range(3)]
    assert sorted(one.joined().how for one in users) == ["found", "found", "started"]
    assert len({one.url for one in users}) == 1
    for one in users[:2]:
        assert one.leave() == 0
    assert answers(users[2].url)
    assert users[2].leave() == 0
    assert not answers(users[2].url)


def test_one_that_comes_while_the_last_leaves_gets_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Leaving and coming take turns, so none joins a server that is about to stop."""
    with EmbeddedStore(tmp_path) as server:
        store_of(server, monkeypatch).put(f"{server.root}/a", b"1")
        leaving = threading.Thread(target=server.stop)
        leaving.start()
        with EmbeddedStore(tmp_path) as other:
            assert store_of(other, monkeypatch).get(f"{other.root}/a") == b"1"
        leaving.join()


def test_a_starter_that_is_killed_halfway_blocks_nobody(user: Callable[[], User], tmp_path: Path):
    first = user()
    while not (tmp_path / "state.json").exists():
        time.sleep(0.01)
    first.killed()
    second = user().joined()
    assert second.leave() == 0
    assert not answers(second.url)


def test_a_stale_state_is_noticed_and_an_interrupt_stops_the_server(tmp_path: Path):
    def interrupted() -> None:
        with EmbeddedStore(tmp_path) as server:
            assert not server.attached
            raise KeyboardInterrupt

    # What a machine leaves behind that lost its power: a state that names ports on which nobody listens.
    (tmp_path / "state.json").write_text(
        json.dumps({"s3": 11_111, "filer": 11_112, "master": 11_113, "volume": 11_114})
    )
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(open_port(port) for port in ports_of(tmp_path))
    assert not (tmp_path / "state.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process ask to die with its parent")
def test_it_ends_with_its_guard(tmp_path: Path):
    with EmbeddedStore(tmp_path):
        embedded._guards[-1].kill()
        wait_closed(ports_of(tmp_path), 5)


def test_only_loopback_is_open_and_strangers_are_refused(
    s3_server: EmbeddedStore, store: Store, monkeypatch: pytest.MonkeyPatch
):
    for port in ports_of(s3_server.data_dir):
        assert open_port(port)
        # Loopback too, but another address: a server that binds to every interface would answer here.
        if sys.platform == "linux":
            assert not open_port(port, "127.0.0.2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with pytest.raises(StorageError, match="403"):
        Store(store.root).find(f"{store.root}/a")


def test_a_machine_without_the_server_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No test machine lacks the wheel, so the look-ups are pointed at nothing."""

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL.*Docker"):
        EmbeddedStore(tmp_path / "data").__enter__()


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "weed"
    script.write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr("components.common.storage.embedded.find_server", lambda: script)
    with pytest.raises(StorageError, match=r"exited with code 3(.|\n)*the disk is on fire"):
        EmbeddedStore(tmp_path / "data").__enter__()


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk of one's own can be mounted by root alone"
)
def test_a_full_disk_is_told_as_one_and_the_store_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", tmp_path], check=True)
    try:
        with EmbeddedStore(tmp_path / "data") as server:
            monkeypatch.setenv("UNTAINT_S3_MAX_ATTEMPTS", "1")
            store = store_of(server, monkeypatch)
            store.put(f"{server.root}/before", b"1")
            ballast = tmp_path / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(tmp_path).free - 2_000_000))
            with pytest.raises(ResourceError, match="room for the embedded store to put"):
                store.put(f"{server.root}/large", secrets.token_bytes(4_000_000))
            ballast.unlink()
            store.put(f"{server.root}/large", secrets.token_bytes(4_000_000))
        with EmbeddedStore(tmp_path / "data") as server:
            store = store_of(server, monkeypatch)
            assert store.get(f"{server.root}/before") == b"1"
            assert len(store.get(f"{server.root}/large")) == 4_000_000
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_an_unstarted_store_has_no_address(tmp_path: Path):
    with pytest.raises(ConfigError, match="with block"):
        EmbeddedStore(tmp_path).environment()
