"""Runs one server and ends it with the process that asked for it, whatever way that process ends.

Started by ``embedded`` as a process of its own, with the read end of a pipe as standard input. Nobody writes into that
pipe: its end of file, which the operating system brings even after ``kill -9`` of the parent, is the order to stop. It
imports nothing of untaint, so it starts fast and depends on nothing that could change under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 1.0
"""SeaweedFS 4.34 waits a fixed 10 s for its own gRPC streams to end, so it never finishes in a time that a user would
wait at a prompt. It takes no new requests meanwhile, and what it acknowledged survives SIGKILL (a test holds that), so
the wait is only for requests on their way."""
_PR_SET_PDEATHSIG = 1


def _die_with_guard() -> None:
    # Linux only: should the guard itself be killed, the kernel takes the server with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Runs a command until it ends by itself or the parent is gone.

    Args:
        arguments: The state file to delete before stopping; the socket paths to delete after, joined by colons; the
            number of the open lock file, which the server inherits; then the command.

    Returns:
        The exit code of a server that ended by itself, else 0.
    """
    state, sockets, lock, *command = arguments
    parent = os.getppid()
    # Ctrl-C and a closed terminal reach the parent, which decides; a TERM here means stop, too.
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
        while server.poll() is None and os.getppid() == parent:
            ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
            if ready:
                break
        return server.poll() or 0
    finally:
        # The state first: nobody may attach to a server that is about to go.
        Path(state).unlink(missing_ok=True)
        _stop(server)
        for socket in sockets.split(":"):
            with contextlib.suppress(OSError):
                Path(socket).unlink()


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
