"""Training in two processes, as on two GPUs: a whole stage, and a training that the real torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.common.learning.devices import PROCESSES
from components.common.runs.inputs import read_model, read_rows
from components.common.runs.lifecycle import Published, StageRun
from components.common.storage.store import Store
from components.common.tables.tables import TRACES
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage as ingest
from components.warmup.config import WarmupConfig
from components.warmup.stage import run_stage as warmup

ROOT = Path(__file__).parents[4]
BATCH = 40


def furthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of learned weights; running statistics are means over processes and differ more."""
    names = [name for name in one if "running" not in name and "num_batches" not in name]
    assert names
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in names)


def outcome(store: Store, run_id: str, data: Published, result: Published) -> tuple[Mapping[str, Tensor], Tensor, list]:
    """Weights, what the model says of the training images, and the traces' losses."""
    parents = {"ingest": (data.uri, data.sha256), "warmup": (result.uri, result.sha256)}
    with StageRun("look", WarmupConfig(), store.root, run_id, parents) as run:
        rows = read_rows(run, "train")
        model, _ = read_model(run, "warmup", "model")
        losses = run.read_table("warmup", "traces", TRACES)["loss"].to_pylist()
    with torch.no_grad():
        said = model.eval()(rows.images.float() / 255)
    return model.state_dict(), said, losses


def test_the_warmup_stage_in_two_processes_gives_what_one_gives(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = {"model": "convnet_tiny", "epochs": 6, "batch_size": BATCH, "mixing_rounds": 1, "seed": 3}
    found = {}
    for run_id, processes, config in (
        # Two processes take half of each batch; one process that takes it in two parts does the same sums.
        ("one", "1", WarmupConfig(**settings, micro_batch=BATCH // 2)),
        ("two", "2", WarmupConfig(**settings)),
    ):
        monkeypatch.setenv(PROCESSES, processes)
        data = ingest(IngestConfig(train_limit=400, holdout_limit=50, attack="none"), store.root, run_id)
        result = warmup(config, store.root, run_id, {"ingest": (data.uri, data.sha256)})
        found[run_id] = outcome(store, run_id, data, result)
    assert "training in 2 processes" in caplog.text
    (weights, said, losses), (others, said_too, losses_too) = found["one"], found["two"]
    assert furthest(weights, others) < 1e-3
    assert len(losses) == len(losses_too) == 2400
    # What a user sees of it: the same class for (nearly) every image; batch-norm takes its statistics otherwise.
    assert float((said.argmax(1) == said_too.argmax(1)).float().mean()) > 0.9
    assert sum(abs(a - b) for a, b in zip(losses, losses_too, strict=True)) / 2400 < 0.15


def test_torchrun_starts_a_training_that_ends_as_one_process_does(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = ["-m", "tests.components.common.learning.torchrun_training"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = {}
    for name, launcher, micro_batch in (("one", [], BATCH // 2), ("two", torchrun, 0)):
        target = tmp_path / f"{name}.pt"
        command = [sys.executable, *launcher, *script, str(target), str(micro_batch)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = torch.load(target, weights_only=True)
    assert [found[name]["processes"] for name in ("one", "two")] == [1, 2]
    assert furthest(found["one"]["weights"], found["two"]["weights"]) < 1e-3
