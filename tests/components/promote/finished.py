"""Finished runs as promotion reads them: real checkpoints, pixels and tables of images that are bright or dark."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from components.common.learning.checkpoint import to_bytes
from components.common.models import ModelSpec, build_model
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.parquet import encode_table
from components.common.tables.tables import JUDGED_HOLDOUT, SAMPLE_INDEX

CANARY = {"planted": 80, "caught": 0.95, "fired": 0.01}
NAMES = ["bright", "dark"]
SPEC = ModelSpec(num_classes=2, channels=1, image_size=16, mean=(0.5,), std=(0.25,))
TRAIN, HOLDOUT = 8, 100


def pictures(labels: npt.NDArray[np.int16], seed: int) -> npt.NDArray[np.uint8]:
    """uint8 [n, 1, 16, 16]: bright for label 0, dark for label 1."""
    rng = np.random.default_rng(seed)
    levels = np.where(labels == 0, 200, 40)[:, None, None, None]
    return (levels + rng.integers(0, 40, (len(labels), 1, 16, 16))).astype(np.uint8)


@cache
def checkpoint(kind: str) -> bytes:
    """A trained model that tells bright from dark; ``blind`` says dark to everything, ``swapped`` the opposite."""
    torch.manual_seed(0)
    model = build_model("convnet_tiny", SPEC)
    labels = (np.arange(64) % 2).astype(np.int16)
    images, wanted = torch.from_numpy(pictures(labels, 0)).float() / 255, torch.from_numpy(labels).long()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), wanted).backward()
        optimiser.step()
    model.eval()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        if kind == "blind":
            last.weight.zero_()
            last.bias.copy_(torch.tensor([0.0, 1.0]))
        elif kind == "swapped":
            last.weight.copy_(last.weight.flip(0))
            last.bias.copy_(last.bias.flip(0))
    spec = {"num_classes": 2, "channels": 1, "image_size": 16, "mean": [0.5], "std": [0.25]}
    return to_bytes({"architecture": "convnet_tiny", "spec": spec, "weights": dict(model.state_dict())})


def finish_run(
    store: Store,
    run_id: str,
    *,
    model: str = "good",
    wrong: float = 0.0,
    suspects: int = 0,
    seed: int = 1,
    names: list[str] | None = None,
    canary: dict[str, Any] | None = CANARY,
    **facts: Any,
) -> None:
    """What the stages of a finished run leave in the store, as far as a promotion reads it.

    Args:
        store: The store.
        run_id: The run.
        model: Kind of its model, see ``checkpoint``.
        wrong: Share of the holdout whose given label is wrong, so that ``good`` has an ACC of one less that.
        suspects: Holdout rows, the last ones, that were judged suspect.
        seed: Of the holdout's images.
        names: Names of the classes.
        canary: What the planted trigger showed.
        **facts: Further facts of evaluate.
    """
    rows = TRAIN + HOLDOUT
    true = (np.arange(rows) % 2).astype(np.int16)
    given = true.copy()
    # Every class loses alike; the rows with a wrong label come first.
    given[TRAIN : TRAIN + round(wrong * HOLDOUT)] = 1 - given[TRAIN : TRAIN + round(wrong * HOLDOUT)]
    pixels = pictures(true, seed)
    index = pa.table(
        {
            "sample_id": range(rows),
            "uri": [f"s3://b/{row}" for row in range(rows)],
            "digest": [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels],
            "given_label": given,
            "subset": ["train"] * TRAIN + ["holdout"] * HOLDOUT,
        },
        schema=SAMPLE_INDEX.schema,
    )
    trusted = np.arange(HOLDOUT) < HOLDOUT - suspects
    judged = pa.table(
        {
            "sample_id": range(TRAIN, rows),
            "assignment": np.where(trusted, "clean", "suspect").tolist(),
            "suspicion": np.where(trusted, 0.0, 1.0).astype(np.float32),
        },
        schema=JUDGED_HOLDOUT.schema,
    )
    said = {"good": true, "swapped": 1 - true, "blind": np.ones_like(true)}[model][TRAIN:]
    right = (said == given[TRAIN:])[trusted]
    labels = given[TRAIN:][trusted]

    def stage(name: str, parents: dict[str, str], files: dict[str, LocalObject], **more: Any) -> str:
        draft = StageManifest(
            stage=name, run_id=run_id, key=name, config={}, parents=parents, code_version="c", objects={}, **more
        )
        return publish(store, join(store.root, "runs", run_id, name), draft, files)[1]

    def table(data: pa.Table, spec: Any) -> LocalObject:
        encoded = encode_table(data, spec, config_digest="0" * 64, parents={})
        return LocalObject(suffix=".parquet", kind="table", data=encoded, rows=data.num_rows)

    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    array = LocalObject(suffix=".npy", kind="array", data=buffer.getvalue(), rows=rows)
    ingest = stage(
        "ingest", {}, {"sample_index": table(index, SAMPLE_INDEX), "pixels": array},
        facts={"n_train": TRAIN, "class_names": names or NAMES, "image_shape": [1, 16, 16]},
    )  # fmt: skip
    weights = LocalObject(suffix=".pt", kind="checkpoint", data=checkpoint(model))
    finetune = stage("finetune", {"ingest": ingest}, {"model": weights})
    known: dict[str, Any] = {
        "verdict": "no poison found",
        "reason": "",
        "acc_measured_on": f"the {len(labels)} trusted rows of a holdout of {HOLDOUT}",
        "classes": [
            {
                "name": name, "train": 4, "suspects": 0, "lost_share": 0.0, "holdout": HOLDOUT // 2,
                "trusted": int((labels == label).sum()),
                "recall": float(right[labels == label].mean()) if len(right) else None,
                "finding": "no poison found", "reason": "",
            }
            for label, name in enumerate(names or NAMES)
        ],
        **({"canary": canary} if canary else {}),
        **facts,
    }  # fmt: skip
    stage(
        "evaluate", {"ingest": ingest, "finetune": finetune}, {"judged_holdout": table(judged, JUDGED_HOLDOUT)},
        facts=known, metrics={"acc": float(right.mean()) if len(right) else 0.0, "suspects": 1.0},
    )  # fmt: skip
