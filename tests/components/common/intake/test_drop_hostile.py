"""Hostile files: each is rejected for its own reason, by content, within 512 MB; odd files that are right get in."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.intake.containers import MalformedImageError, end_of_image
from components.common.intake.images import ImageProblem, decode
from components.common.intake.sniff import sniff
from components.common.tables.tables import REJECT_REASONS
from tests.components.common.intake.drop_samples import encode, hostile, unusual

# Pillow, numpy and Python take some 200 MB of addresses before the first image.
LIMITED = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20, 512 * 2**20))
from components.common.intake.images import ImageProblem, check_content, decode
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        pixels = decode(path.read_bytes(), 32)
        check_content(pixels, path.read_bytes())
        print(path.name, "ok", *pixels.shape)
    except ImageProblem as problem:
        print(path.name, problem.reason)
assert "torch" not in sys.modules and "pandas" not in sys.modules
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process of 512 MB says of every file."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, data in {**{name: data for name, (data, _) in hostile().items()}, **unusual()}.items():
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[4],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", sorted(hostile()))
def test_a_hostile_file_is_rejected_for_its_reason_within_512_mb(name: str, verdicts: dict[str, str]) -> None:
    assert verdicts[name] == hostile()[name][1]


@pytest.mark.parametrize("name", sorted(unusual()))
def test_large_and_odd_files_decode_within_512_mb(name: str, verdicts: dict[str, str]) -> None:
    assert verdicts[name].startswith("ok ")
    assert verdicts[name].endswith("32 32")


def test_every_reason_that_decoding_gives_is_in_the_contract() -> None:
    assert {reason for _, reason in hostile().values()} <= set(REJECT_REASONS)


def test_of_an_animation_the_first_image_counts() -> None:
    for name in ("animated.png", "animated.webp", "animated.gif"):
        assert decode(unusual()[name], 0).max() < 20, name


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
def test_the_end_of_an_image_is_where_its_own_bytes_end(rest: bytes, kind: str) -> None:
    # Only even lengths of WebP have a certain end, since its chunks are padded.
    data = encode(np.arange(256, dtype=np.uint8).reshape(16, 16), kind)
    assert end_of_image(data + rest, kind.lower()) == len(data)


@given(st.data())
def test_damaged_files_never_raise_anything_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
    original = bytearray(encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), kind))
    for _ in range(data.draw(st.integers(0, 3))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(original[: data.draw(st.integers(0, len(original)))])
    found = sniff(damaged).kind
    if found:
        with contextlib.suppress(MalformedImageError):
            assert 0 < end_of_image(damaged, found) <= len(damaged)
    try:
        outcome = str(decode(damaged, 0).dtype)
    except ImageProblem as problem:
        outcome = problem.reason
    assert outcome == "uint8" or outcome in REJECT_REASONS
