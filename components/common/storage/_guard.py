"""Runs one server for as long as somebody uses its data folder, whatever way the users end.

Started by ``embedded`` as a process of its own. Every user holds a shared lock on ``users.lock``; the operating system
takes it back even after ``kill -9``. Whoever can lock that file alone knows that nobody uses the server. To try it
takes the turn, ``turn.lock``, in which users come and go, so that none comes meanwhile. The guard imports nothing of
untaint, so it starts fast and depends on nothing that could change under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["SERVER", "STATE", "TURN", "USERS", "main", "take"]

SERVER = "server.lock"
"""Held by the guard and the server together, so that it is free when both are gone."""
STATE = "state.json"
"""The server's ports. The server ends when somebody deletes it."""
TURN = "turn.lock"
"""Held by who starts, joins, leaves or stops the server."""
USERS = "users.lock"
"""Held, shared, by every user."""

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 1.0
"""SeaweedFS 4.34 waits a fixed 10 s for its own gRPC streams to end, so it never finishes in a time that a user would
wait at a prompt. It takes no new requests meanwhile, and what it acknowledged survives SIGKILL (a test holds that), so
the wait is only for requests on their way."""
_PR_SET_PDEATHSIG = 1


def take(descriptor: int, *, shared: bool = False) -> bool:
    """Locks an open file if that is possible at once. A shared lock that cannot become an exclusive one is lost.

    Args:
        descriptor: The open file.
        shared: Whether others may hold the lock, too.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Runs a command until it ends by itself, its state is deleted, or nobody uses it.

    Args:
        arguments: The data folder; the socket paths to delete at the end, joined by colons; the number of the open
            server lock, which the server inherits; then the command.

    Returns:
        The exit code of a server that ended by itself, else 0.
    """
    folder, sockets, lock, *command = Path(arguments[0]), *arguments[1:]
    # Ctrl-C and a closed terminal reach the users, who decide; a TERM here means stop, too.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = subprocess.Popen(  # noqa: S603 - the command is our own
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=(int(lock),),
        preexec_fn=_die_with_guard if sys.platform == "linux" else None,
    )
    try:
        while server.poll() is None and (folder / STATE).exists() and not _abandoned(folder):
            time.sleep(_POLL_SECONDS)
        return server.poll() or 0
    finally:
        # The state first: nobody may join a server that is about to go.
        (folder / STATE).unlink(missing_ok=True)
        _stop(server)
        for socket in sockets.split(":"):
            with contextlib.suppress(OSError):
                Path(socket).unlink()


def _abandoned(folder: Path) -> bool:
    """Whether nobody uses the server; then its state is deleted already."""
    try:
        with (folder / TURN).open("a+") as turn, (folder / USERS).open("a+") as users:
            # In this order: who has the turn may count on nobody else to lock the users.
            if take(turn.fileno()) and take(users.fileno()):
                (folder / STATE).unlink(missing_ok=True)
                return True
    except OSError:
        # The folder is gone, or the disk has no room for what is there already: then so be it.
        return not folder.exists()
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _die_with_guard() -> None:
    # Linux only: should the guard itself be killed, the kernel takes the server with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
