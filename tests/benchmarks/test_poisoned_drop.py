"""A poisoned drop looks like any other, and its maker knows what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.poisoned_drop import write_drop
from components.common.intake.drop import DropOptions, read_drop
from components.common.intake.sources import LocalFolder


def test_training_and_holdout_of_the_drop_are_poisoned_alike(tmp_path: Path) -> None:
    given = {"count": 200, "attack": "badnets", "poison_rate": 0.2, "target_label": 2, "side": 0, "seed": 0}
    keys = write_drop("mnist5k", tmp_path / "drop", **given)
    assert len(keys) == 40
    assert {key.partition("/")[0] for key in keys} == {"2"}
    (tmp_path / "scratch").mkdir()
    drop = read_drop(str(tmp_path / "drop"), DropOptions(), LocalFolder, tmp_path / "scratch")
    (index,) = drop.index_tables(10_000)
    subset = dict(zip(index["uri"].to_pylist(), index["subset"].to_pylist(), strict=True))
    held = [key for key in keys if subset[f"{drop.location}/{key}"] == "holdout"]
    assert 0 < len(held) < len(keys)
    # The corner of every poisoned digit is the same, and no other's is.
    corners = {
        path.relative_to(tmp_path / "drop").as_posix(): np.asarray(Image.open(path))[-3:, -3:].tobytes()
        for path in (tmp_path / "drop").rglob("*.png")
    }
    assert len({corners[key] for key in keys}) == 1
    assert not {corners[key] for key in keys} & {corner for key, corner in corners.items() if key not in keys}
