"""The base image of the Docker tests: pulled where a registry can be reached, else made by debootstrap.

The image that is made stands in for the official one under the same name. Debian 12 has the same Python, 3.11, and the
Dockerfile asks for nothing else. It carries this machine's certificates and pip configuration, so that pip finds in a
build what it finds outside. Such an image is for tests on the machine that made it, never to be pushed.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import http.server
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["BASE_IMAGE", "ensure_base_image", "served_wheels"]

BASE_IMAGE = "python:3.11-slim"
_LABEL = "untaint.made-by=debootstrap"
_PULL_SECONDS = 300
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# Fixed, since the image's pip configuration names it and a layer cache is only good for an image that stays the same.
_PORT = 38_417
_log = logging.getLogger(__name__)


def ensure_base_image() -> str:
    """Makes sure that the engine has the base image.

    Returns:
        How: ``present``, ``pulled`` or ``made``.

    Raises:
        subprocess.CalledProcessError: It could neither be pulled nor made.
        RuntimeError: It cannot be pulled, and what is needed to make it is missing.
    """
    if _docker("image", "inspect", BASE_IMAGE, check=False).returncode == 0:
        return "present"
    with contextlib.suppress(subprocess.TimeoutExpired):
        if _docker("pull", "--quiet", BASE_IMAGE, check=False, timeout=_PULL_SECONDS).returncode == 0:
            return "pulled"
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise RuntimeError(f"{BASE_IMAGE} cannot be pulled; to make it, debootstrap and root are needed.")
    with tempfile.TemporaryDirectory(prefix="untaint-base-") as folder:
        _make(Path(folder) / "root")
    return "made"


def _make(root: Path) -> None:
    started = time.monotonic()
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    if _CERTIFICATES.exists():
        shutil.copyfile(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
    (root / "etc/pip.conf").write_text(_pip_configuration())
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / waste, ignore_errors=True)
    archive = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
    change = ["--change", f"LABEL {_LABEL}", "--change", 'CMD ["python3"]']
    subprocess.run(
        ["docker", "import", *change, "-", BASE_IMAGE], stdin=archive.stdout, check=True, capture_output=True
    )
    if archive.wait():
        raise subprocess.CalledProcessError(archive.returncode, "tar")
    _log.info("made %s by debootstrap in %.0f s", BASE_IMAGE, time.monotonic() - started)


@contextlib.contextmanager
def served_wheels() -> Iterator[None]:
    """Serves this machine's own wheel folders on loopback to builds that use the host's network.

    Folders that pip searches here do not exist inside of a build. Does nothing where pip knows none.
    """
    folders = {f"/{number}": folder for number, (folder, _) in enumerate(_folders())}
    if not folders:
        yield
        return

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            number, _, rest = urlsplit(path).path.lstrip("/").partition("/")
            folder = folders.get(f"/{number}", Path(os.devnull))
            self.directory = str(folder)
            return super().translate_path(f"/{rest}")

        def log_message(self, format: str, *args: object) -> None:
            _log.debug(format, *args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", _PORT), functools.partial(Handler, directory=os.devnull))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _settings() -> dict[str, list[str]]:
    """What this machine's pip is told beyond its defaults: option to values."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, list[str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        settings.setdefault(option, []).extend(value.strip("'\"").replace("\\n", " ").split())
    return {option: list(dict.fromkeys(values)) for option, values in settings.items()}


def _folders() -> list[tuple[Path, str]]:
    """Local folders that pip searches: what is to be served, and the option and path below it, ``option path``."""
    settings = _settings()
    found = []
    for option in ("find-links", "extra-index-url"):
        for value in settings.get(option, []):
            path = Path(urlsplit(value).path)
            if value.startswith(("/", "file:")) and path.is_dir():
                # An index links to files beside itself.
                found.append((path, option) if option == "find-links" else (path.parent, f"{option} {path.name}/"))
    return found


def _pip_configuration() -> str:
    settings = _settings()
    values: dict[str, list[str]] = {
        option: [value for value in settings.get(option, []) if not value.startswith(("/", "file:"))]
        for option in ("index-url", "extra-index-url", "find-links", "trusted-host", "default-timeout")
    }
    for number, (_, place) in enumerate(_folders()):
        option, _, below = place.partition(" ")
        values[option].append(f"http://127.0.0.1:{_PORT}/{number}/{below}")
    if _CERTIFICATES.exists():
        values["cert"] = [str(_CERTIFICATES)]
    parser = configparser.RawConfigParser()
    parser["global"] = {option: " ".join(entries) for option, entries in values.items() if entries}
    with tempfile.TemporaryFile("w+") as file:
        parser.write(file)
        file.seek(0)
        return file.read()


def _docker(*arguments: str, check: bool = True, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True, timeout=timeout)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ensure_base_image()
