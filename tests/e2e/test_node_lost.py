"""A training whose pod is gone with its node: the next attempt resumes from what the lost one kept in the store."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.common.storage.store import Store
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage as ingest
from components.warmup.config import WarmupConfig
from components.warmup.stage import run_stage as warmup

REPOSITORY = Path(__file__).parents[2]
CONFIG = WarmupConfig(model="convnet_tiny", epochs=3, batch_size=50, seed=3)
LOST = """
import os, signal, sys
from components.common.runs import lifecycle
from components.warmup.config import WarmupConfig
from components.warmup.stage import run_stage

lifecycle._SAVE_EVERY_SECONDS = 0.0
keep, kept = lifecycle.StageRun.save, []

def save(run, phase, state):
    keep(run, phase, state)
    kept.append(phase)
    if len(kept) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

lifecycle.StageRun.save = save
config = WarmupConfig(model="convnet_tiny", epochs=3, batch_size=50, seed=3)
run_stage(config, sys.argv[1], sys.argv[2], {"ingest": (sys.argv[3], sys.argv[4])})
"""


def test_the_next_attempt_resumes_and_comes_to_the_same_bits(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    weights = {}
    for run_id in ("whole", "lost"):
        data = ingest(IngestConfig(train_limit=200), store.root, run_id)
        parent = (data.uri, data.sha256)
        if run_id == "lost":
            attempt = subprocess.run(
                [sys.executable, "-c", LOST, store.root, run_id, *parent], cwd=REPOSITORY, check=False, timeout=200
            )
            assert attempt.returncode == -signal.SIGKILL
            assert "going on from the state" not in caplog.text
        # Argo starts the pod again with the same arguments.
        done = warmup(CONFIG, store.root, run_id, {"ingest": parent})
        weights[run_id] = done.manifest.object("model", done.uri).sha256
    assert "going on from the state of an earlier attempt" in caplog.text
    assert weights["lost"] == weights["whole"]
