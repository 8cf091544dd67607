"""Arrays of one's own as a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.contracts.errors import DataError
from components.common.datasets.base import load

GOOD: dict[str, Any] = {
    "images": np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8),
    "labels": np.arange(40) % 2,
    "class_names": np.array(["a", "b"]),
    "n_train": 30,
}
LIMITS = {"train_limit": 0, "holdout_limit": 0, "image_size": 0, "seed": 0}


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **GOOD)
    data = load(f"npz:{tmp_path}/d.npz", **LIMITS)
    assert (data.images == GOOD["images"]).all()
    assert data.labels.tolist() == GOOD["labels"].tolist()
    assert (data.class_names, data.n_train) == (("a", "b"), 30)
    assert data.uris[31] == f"{tmp_path}/d.npz#row=31"


def test_limits_and_sizes_apply(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **GOOD)
    data = load(f"npz:{tmp_path}/d.npz", **{**LIMITS, "train_limit": 10, "holdout_limit": 4, "image_size": 16})
    assert data.images.shape == (14, 3, 16, 16)
    assert (data.n_train, np.bincount(data.labels[:10]).tolist()) == (10, [5, 5])


@pytest.mark.parametrize(
    "change",
    [
        {"images": GOOD["images"].astype(np.float32)},
        {"images": GOOD["images"][:, :2]},
        {"labels": GOOD["labels"][:-1]},
        {"labels": GOOD["labels"] + 1},
        {"labels": GOOD["labels"] - 1},
        {"class_names": np.array([b"a", b"b"])},
        {"n_train": 40},
        {"labels": np.array([{}] * 40, dtype=object)},
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    np.savez(tmp_path / "d.npz", **{**GOOD, **change})
    with pytest.raises(DataError):
        load(f"npz:{tmp_path}/d.npz", **LIMITS)


def test_compressed_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", **GOOD)
    np.savez(tmp_path / "d.npz", **GOOD)
    data = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_bytes(b"images")
    for name in ("c.npz", "cut.npz", "text.npz", "none.npz"):
        with pytest.raises(DataError, match="NumPy archive"):
            load(f"npz:{tmp_path / name}", **LIMITS)
