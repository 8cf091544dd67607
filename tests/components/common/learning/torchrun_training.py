"""A fine-tuning that torchrun starts, or that runs alone.

    python -m tests.components.common.learning.torchrun_training OUT PART

Not a test itself: tests/components/common/learning/test_two_processes.py runs it both ways.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from components.common.datasets.base import load
from components.common.learning.devices import pick_device
from components.common.learning.distributed import process_group
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import ModelSpec, build_model
from components.finetune.algorithm import train
from components.finetune.config import FinetuneConfig


def main(target: Path, micro_batch: int) -> None:
    """Trains, and lets rank 0 write weights and the number of processes."""
    dataset = load("mnist5k", train_limit=200, holdout_limit=10, image_size=0, seed=0)
    tensors = {
        "images": torch.from_numpy(dataset.images[: dataset.n_train]),
        "labels": torch.from_numpy(dataset.labels[: dataset.n_train].astype(np.int64)),
        "labelled": torch.arange(dataset.n_train) % 5 != 0,
        "doubtful": torch.ones(10, 10),
    }
    config = FinetuneConfig(epochs=1, batch_size=40, micro_batch=micro_batch, seed=3)
    make_deterministic(config.seed)
    spec = ModelSpec(num_classes=10, channels=1, image_size=28, mean=(0.13,), std=(0.31,))
    torch.manual_seed(0)
    model = build_model("convnet", spec)
    device = pick_device()
    with process_group(device) as group:
        result = train(model.to(device), tensors, NullWatch(), config=config, mirror=False)
        if group.leads:
            torch.save({"weights": result["weights"], "processes": group.size}, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
