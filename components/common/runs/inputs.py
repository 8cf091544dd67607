"""What the training stages read alike: the training rows of a run, and a model with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from components.common.learning.checkpoint import from_bytes, to_bytes
from components.common.models import ModelSpec, build_model
from components.common.runs.artifacts import StageManifest
from components.common.runs.lifecycle import StageRun
from components.common.tables.tables import SAMPLE_INDEX

__all__ = ["Rows", "add_model", "load_model", "read_both", "read_model", "read_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of one subset of a run.

    Attributes:
        ids: int64 Arrow array, sample_ids.
        images: uint8 [n, c, h, w], on the CPU.
        labels: int64 [n], the given labels, on the CPU.
        mirror: Whether a horizontal flip keeps the class.
        spec: What a model for these data is built for.
        class_names: Name of class k at position k.
    """

    ids: pa.Array
    images: Tensor
    labels: Tensor
    mirror: bool
    spec: ModelSpec
    class_names: list[str]


def _spec(manifest: StageManifest) -> ModelSpec:
    facts = manifest.facts
    return ModelSpec(
        num_classes=len(facts["class_names"]),
        channels=facts["image_shape"][0],
        image_size=facts["image_shape"][1],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )


def read_rows(run: StageRun, subset: str) -> Rows:
    """Reads one subset of the ingest stage's rows.

    Args:
        run: The stage, with a parent ``ingest``.
        subset: ``train`` or ``holdout``.
    """
    train, holdout = read_both(run)
    return train if subset == "train" else holdout


def read_both(run: StageRun) -> tuple[Rows, Rows]:
    """Reads the training and the holdout rows of the ingest stage, once.

    Args:
        run: The stage, with a parent ``ingest``.
    """
    manifest = run.parents["ingest"].manifest
    index = run.read_table("ingest", "sample_index", SAMPLE_INDEX)
    pixels = run.read_array("ingest", "pixels")
    ids, given = index["sample_id"].combine_chunks(), index["given_label"].to_numpy()
    # Training rows stand first, so a subset is a slice and needs no copy.
    n_train = int(manifest.facts["n_train"])
    train, holdout = (
        Rows(
            ids=ids[rows],
            images=torch.from_numpy(pixels[rows]),
            labels=torch.from_numpy(given[rows].astype(np.int64)),
            mirror=bool(manifest.facts["mirror"]),
            spec=_spec(manifest),
            class_names=list(manifest.facts["class_names"]),
        )
        for rows in (slice(0, n_train), slice(n_train, len(pixels)))
    )
    return train, holdout


def add_model(run: StageRun, name: str, architecture: str, spec: ModelSpec, model: nn.Module) -> None:
    """Keeps a model for publishing, with all that is needed to build it again."""
    state: dict[str, Any] = {
        "architecture": architecture,
        "spec": {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(spec).items()},
        "weights": {key: value.detach().cpu().clone() for key, value in model.state_dict().items()},
    }
    run.add_bytes(name, to_bytes(state), suffix=".pt", kind="checkpoint")


def read_model(run: StageRun, parent: str, name: str, device: torch.device | None = None) -> tuple[nn.Module, str]:
    """A parent's model with its weights, in evaluation mode, and which architecture it is.

    It is read once in the stage's life: who changes it, changes it for every later reader on that device.
    """
    place = device or torch.device("cpu")

    def build() -> tuple[nn.Module, str]:
        subject = f"{run.parents[parent].uri}, object {name}"
        state = run.once(("state", parent, name), lambda: from_bytes(run.read_bytes(parent, name), subject=subject))
        model, _, architecture = _built(state)
        return model.to(place), architecture

    return run.once(("model", parent, name, str(place)), build)


def load_model(data: bytes, subject: str) -> tuple[nn.Module, ModelSpec, str]:
    """A model from the bytes that ``add_model`` kept, in evaluation mode, what it is built for and its architecture.

    Args:
        data: The checkpoint.
        subject: Where it came from, for messages.

    Raises:
        ContractError: The checkpoint is damaged.
    """
    return _built(from_bytes(data, subject=subject))


def _built(state: Mapping[str, Any]) -> tuple[nn.Module, ModelSpec, str]:
    kept = state["spec"]
    spec = ModelSpec(**{**kept, "mean": tuple(kept["mean"]), "std": tuple(kept["std"])})
    model = build_model(state["architecture"], spec)
    model.load_state_dict(state["weights"])
    return model.eval(), spec, str(state["architecture"])
