"""Data that nothing can be learned from: each is told clearly, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from components.common.contracts.errors import ConfigError, DataError, UntaintError
from components.common.datasets.base import LoadedDataset
from components.common.learning.config import TrainRecipe
from components.common.learning.loop import EpochOrder, Trainer
from components.common.learning.watch import NullWatch
from components.common.storage.store import Store
from components.ingest.algorithm import encode_png
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage

Given = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def some(many_digits: tuple[Tensor, Tensor]) -> Given:
    """250 digits, uint8 [250, 1, 28, 28] and int64 [250]."""
    return many_digits[0][:250].numpy(), many_digits[1][:250].numpy()


def shards(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    column = pa.StructArray.from_arrays(
        [pa.array([encode_png(image) for image in images], pa.binary()), pa.nulls(len(images), pa.string())],
        names=["bytes", "path"],
    )
    table = pa.table({"image": column, "label": pa.array(labels)})
    for name in ("train", "test"):
        pq.write_table(table, folder / f"{name}.parquet")
    return f"parquet:{folder}"


def ingest(store: Store, dataset: str, **settings: object) -> None:
    run_stage(IngestConfig(**{"dataset": dataset, "attack": "none", **settings}), store.root, "bad")


def test_a_class_of_nine_is_named(store: Store, tmp_path: Path, some: Given) -> None:
    images, labels = some
    rows = np.concatenate([np.flatnonzero(labels != 4), np.flatnonzero(labels == 4)[:9]])
    with pytest.raises(DataError, match=r"expected at least 10 of each class; found fewer of 4 \(9\)"):
        ingest(store, shards(tmp_path, images[rows], labels[rows]))


def test_three_images_are_too_few(store: Store, tmp_path: Path, some: Given) -> None:
    with pytest.raises(DataError, match=r"at least 10 of each class; found fewer of 0 \(1\), 1 \(1\), 2 \(1\)"):
        ingest(store, shards(tmp_path, some[0][:3], np.arange(3)))


def test_one_class_is_no_classification(store: Store, tmp_path: Path, some: Given) -> None:
    with pytest.raises(DataError, match="expected at least 2 classes; found 1"):
        ingest(store, shards(tmp_path, some[0][:50], np.zeros(50, dtype=np.int64)))


def test_one_image_under_two_labels_teaches_nothing(store: Store, tmp_path: Path, some: Given) -> None:
    with pytest.raises(DataError, match="label_conflict 80"):
        ingest(store, shards(tmp_path, np.repeat(some[0][:1], 40, axis=0), np.arange(40) % 2))


def test_everything_poisoned_towards_one_class_leaves_no_problem(store: Store, tmp_path: Path, some: Given) -> None:
    images, labels = some
    dataset = shards(tmp_path, images, labels)
    with pytest.raises(ConfigError, match=r"poison_rate: expected at most 0\.\d+ .*found 1.0 \(250 samples\)"):
        ingest(store, dataset, attack="badnets", poison_rate=1.0)
    with pytest.raises(ConfigError, match="poison_rate: expected samples of at least two labels after the attack"):
        ingest(store, dataset, attack="badnets", poison_rate=float((labels != 0).mean()))


def test_pixels_that_are_no_bytes_are_refused_wherever_they_come_from(store: Store, tmp_path: Path) -> None:
    """NaN cannot enter: images are bytes from the file to the model."""
    wild = pa.table({"image": pa.array([[float("nan")] * 4] * 20), "label": pa.array(np.arange(20) % 2)})
    for name in ("train", "test"):
        pq.write_table(wild, tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"bad_shard 2.*pixels as numbers must be encoded"):
        ingest(store, f"parquet:{tmp_path}")
    with pytest.raises(ValueError, match=r"images must be uint8 .* got float32"):
        LoadedDataset(
            name="x",
            images=np.full((4, 1, 8, 8), np.nan, dtype=np.float32),  # type: ignore[arg-type]
            labels=np.array([0, 1, 0, 1], dtype=np.int16),
            class_names=("a", "b"),
            uris=[""] * 4,
            digests=[""] * 4,
            n_train=2,
            encoded=None,
            mirror=False,
        )


def test_weights_that_the_last_step_drove_away_are_no_model() -> None:
    """No loss sees them, and a model of NaN still has an argmax."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    trainer = Trainer(model=model, recipe=TrainRecipe(), phase="finetune", watch=NullWatch())

    with torch.no_grad():
        model[1].weight.zero_()
    # The square root of zero is finite, its gradient is not.
    with pytest.raises(UntaintError, match=r"training 'finetune', after step 1: expected finite weights"):
        trainer.run(1, EpochOrder(4, 4, 0, "x").batch, lambda rows, _: model[1].weight.abs().sum().sqrt())
