"""What stops a command from outside: four lines, the right code, the cause first; on real disks and ports."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a place that refuses root too: /sys")
mounts = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk of one's own can be mounted by root alone"
)


def untaint(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Not the store of the other tests, which their environment points at.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", *arguments],
        env={**mine, "UNTAINT_HOME": str(home), "UNTAINT_DEBUG": "", **variables},
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip


def four_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The texts of the four lines, and nothing else, on standard error."""
    lines = done.stderr.splitlines()
    assert [line[:12].strip() for line in lines] == ["problem:", "expected:", "found:", "what to do:"], done.stderr
    return [line[12:] for line in lines]


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


COMMANDS = [
    ("run",),
    ("store", "start"),
    ("models", "list"),
    ("report", "a-run", "--store", ""),
    ("suspects", "show", "a-run"),
    ("deliver", str(Path(__file__).parent), "s3://untaint/drops/a"),
    ("schedule", "run-once", "--drops", "s3://untaint/drops"),
    ("backfill", "2026-11-01", "2026-11-02", "--drops", "s3://untaint/drops"),
]


@linux
@pytest.mark.parametrize("arguments", [COMMANDS[0], COMMANDS[2], COMMANDS[6]], ids=" ".join)
def test_a_home_that_refuses_is_named_in_four_lines(arguments: tuple[str, ...]) -> None:
    done = untaint(Path("/sys/untaint"), *arguments)
    problem, _, found, todo = four_lines(done)
    assert done.returncode == 2
    assert problem.startswith("ConfigError: /sys/untaint")
    assert "ermi" in found
    assert "UNTAINT_HOME" in todo


@pytest.mark.parametrize("arguments", [COMMANDS[0], COMMANDS[1]], ids=" ".join)
def test_a_home_that_is_a_file_is_named_in_four_lines(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    done = untaint(tmp_path / "home", *arguments)
    problem, expected, _, _ = four_lines(done)
    assert done.returncode == 2
    assert problem.startswith(f"ConfigError: {tmp_path}/home")
    assert "folder" in expected


@mounts
def test_a_read_only_home_is_named_in_four_lines(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=8m,ro") as place:
        done = untaint(place / "home", "run")
        assert done.returncode == 2
        assert four_lines(done)[2] == "Read-only file system"


@mounts
def test_a_full_disk_is_a_matter_of_resources_before_the_run(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=40m") as place:
        done = untaint(place / "home", "run")
        problem, expected, found, todo = four_lines(done)
        assert done.returncode == 5
        assert problem == f"ResourceError: the disk of {place}/home"
        assert "for this run" in expected
        assert found.endswith("MiB free")
        assert "UNTAINT_HOME" in todo
        assert not (place / "home" / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--store", "s3://b/u"),
        ("submit", "--store", "s3://b/u"),
        ("schedule", "run-once", "--drops", "s3://b/drops"),
        ("ingest", "--drop", "s3://b/u"),
        ("store", "probe", "--store", "s3://b/u"),
        ("models", "list", "--store", "s3://b/u"),
        ("suspects", "show", "s3://b/runs/x"),
        ("deliver", str(Path(__file__).parent), "s3://b/u"),
    ],
    ids=" ".join,
)
def test_a_bucket_name_that_is_too_short_is_told_with_the_rule(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = untaint(tmp_path / "home", *arguments)
    _, expected, found, _ = four_lines(done)
    assert done.returncode == 2
    assert "3 to 63" in expected
    assert "'b', 1 character" in found


def test_an_unreachable_store_is_told_by_its_cause(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        done = untaint(
            tmp_path / "home", "run", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", UNTAINT_S3_MAX_ATTEMPTS="1", **keys
        )
    problem, _, found, todo = four_lines(done)
    assert done.returncode == 4
    assert found == "a refused connection: nothing listens there"
    assert f"127.0.0.1:{port}" in problem
    assert "AWS_ENDPOINT_URL" in todo
    assert not (tmp_path / "home").exists() or not any((tmp_path / "home").rglob("plan.json"))
