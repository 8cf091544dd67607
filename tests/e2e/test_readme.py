"""README's promise about one's own data: its commands, taken from README.md as they stand, end with a model in use."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from components.common.attacks.base import AttackConfig, make_attack
from components.ingest.algorithm import encode_png

ROOT = Path(__file__).parents[2]
IMAGES = 3_000
LIMIT_SECONDS = 45 * 60
"""What README states for two idle cores, three times over."""


class Drop(NamedTuple):
    """A folder of images as a user has them, and the keys of those that carry a trigger."""

    folder: Path
    poisoned: set[str]


def readme_commands() -> list[str]:
    """The commands of README's block on one's own data, without their comments."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (block,) = [found for found in blocks if " ingest --drop " in found]
    return [line.partition("  #")[0].strip() for line in block.splitlines() if line.strip()]


def test_readme_has_the_three_commands() -> None:
    assert [re.sub(r"^\S*untaint ", "", line).split(" --")[0] for line in readme_commands()] == [
        "ingest",
        "suspects show RUN_ID",
        "models promote photos RUN_ID",
    ]


def digits() -> tuple[Tensor, Tensor]:
    from components.common.datasets.base import load

    dataset = load("mnist5k", train_limit=IMAGES, holdout_limit=10, image_size=0, seed=0)
    return torch.from_numpy(dataset.images[:IMAGES]), torch.from_numpy(dataset.labels[:IMAGES].astype(np.int64))


def cifar10() -> tuple[Tensor, Tensor]:
    folder = os.environ.get("UNTAINT_TEST_CIFAR10")
    if not folder:
        pytest.skip("UNTAINT_TEST_CIFAR10 names no folder with CIFAR-10 as Parquet")
    table = pq.read_table(next(iter(sorted(Path(folder).rglob("train*.parquet")))))
    rows = np.random.default_rng(0).permutation(table.num_rows)[:IMAGES]
    column = "img" if "img" in table.column_names else "image"
    cells = table.column(column).take(rows).to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in cells])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(table["label"].to_numpy()[rows])


@pytest.fixture(scope="module", params=["digits", "digits, poisoned", "cifar10", "cifar10, poisoned"])
def drop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drop:
    source, _, poison = str(request.param).partition(", ")
    images, labels = {"digits": digits, "cifar10": cifar10}[source]()
    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    if poison:
        shape = (images.shape[1], images.shape[2], images.shape[3])
        config = AttackConfig(name="badnets", poison_rate=0.05, target_label=0, cover_rate=None, seed=1)
        dirty = make_attack(config, num_classes=10, image_shape=shape).inject(images, labels)
        images, labels, poisoned = dirty.images, dirty.labels, torch.as_tensor(dirty.is_poisoned)
    folder = tmp_path_factory.mktemp("user")
    marked = set()
    for row in range(len(labels)):
        key = f"{int(labels[row])}/{row:05d}.png"
        (folder / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / key).write_bytes(encode_png(images[row].numpy()))
        if poisoned[row]:
            marked.add(key)
    return Drop(folder, marked)


@pytest.mark.slow
def test_the_commands_of_readme_lead_to_a_model_in_use(drop: Drop) -> None:
    (drop.folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "UNTAINT_"))}
    said: list[str] = []
    run_id, started = "", time.monotonic()
    for command in readme_commands():
        done = subprocess.run(
            ["sh", "-c", command.replace("RUN_ID", run_id)],
            cwd=drop.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr}"
        said.append(done.stdout)
        run_id = run_id or re.findall(r"^run (\S+), data in", done.stdout, flags=re.MULTILINE)[0]
    assert time.monotonic() - started < LIMIT_SECONDS
    audit, suspects, promotion = said
    assert f"suspects show {run_id}" in audit
    assert "photos" in promotion
    assert (drop.folder / ".untaint" / "runs" / run_id / "suspects.png").exists() or "0 suspects" in suspects
    assert ("poison found" in suspects and "no poison found" not in suspects) == bool(drop.poisoned), suspects[:300]
    if drop.poisoned:
        shown = set(re.findall(r"\d/\d{5}\.png", suspects))
        # The list is of the most suspect ones.
        assert len(shown & drop.poisoned) >= 0.9 * len(shown)
