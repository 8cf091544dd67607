"""A poisoned dataset as the comparators get it: what the run's ingest stage published, and the same measures."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from components.common.attacks.base import Attack, AttackConfig, make_attack
from components.common.learning.devices import pick_device
from components.common.learning.seeding import make_deterministic
from components.common.learning.watch import NullWatch
from components.common.models import build_model
from components.common.runs.inputs import Rows, read_rows
from components.common.runs.lifecycle import Parent
from components.common.runs.publish import find_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.parquet import decode_table
from components.common.tables.tables import POISON_TRUTH, TableSpec
from components.evaluate.algorithm import accuracy, area_under_roc, attack_success, true_positive_rate
from components.evaluate.config import EvaluateConfig
from components.warmup.algorithm import TrainingSet, train_control
from components.warmup.config import ControlConfig
from pipelines.dag.settings import stage_configs

__all__ = ["Case", "Outcome", "load_case", "measured", "peak_mib", "restart_peak"]


class Artifacts:
    """A run's published stages, read as a later stage reads them."""

    def __init__(self, store: Store, run_id: str, stages: tuple[str, ...]) -> None:
        self.store = store
        found = {stage: find_manifest(store, join(store.root, "runs", run_id, stage)) for stage in stages}
        self.parents = {stage: Parent(*entry) for stage, entry in found.items() if entry is not None}

    def read_table(self, parent: str, name: str, spec: TableSpec) -> pa.Table:
        """A stage's table."""
        ref = self.parents[parent].manifest.object(name, self.parents[parent].uri)
        return decode_table(self.store.get(ref.uri, ref.sha256), spec, subject=ref.uri)

    def read_array(self, parent: str, name: str) -> np.ndarray:
        """A stage's array."""
        ref = self.parents[parent].manifest.object(name, self.parents[parent].uri)
        return np.load(io.BytesIO(self.store.get(ref.uri, ref.sha256)), allow_pickle=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a comparator made.

    Attributes:
        model: In evaluation mode.
        suspicion: float [n], higher = more likely poisoned; None where the method ranks no samples.
        flagged: bool [n], samples that the method took for poisoned; None where it names none.
        seconds: Time of what it reused from another method, to be added to its own.
    """

    model: nn.Module
    suspicion: Tensor | None = None
    flagged: Tensor | None = None
    seconds: float = 0.0


@dataclass(kw_only=True)
class Case:
    """One poisoned training set with everything that is measured on it.

    Attributes:
        train: The training rows as given to every method.
        holdout: The clean holdout.
        attack: Makes the test-time trigger; None without an attack.
        is_poisoned: bool [n], the truth about the training rows: for the oracle, for spectral signatures' poison rate,
            and for measuring.
        recipe: Model, optimiser settings and number of epochs, those of the pipeline's control.
        evaluate: How the pipeline measures.
    """

    train: Rows
    holdout: Rows
    attack: Attack | None
    is_poisoned: Tensor
    recipe: ControlConfig
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def fresh_model(self) -> nn.Module:
        """A model with the initial weights of this seed, the same for all methods."""
        make_deterministic(self.recipe.seed)
        return build_model(self.recipe.model, self.train.spec).to(pick_device())

    def training_set(self, rows: Tensor | None = None) -> TrainingSet:
        """All training rows as given, or some of them (bool or int64)."""
        images, labels = self.train.images, self.train.labels
        if rows is not None:
            images, labels = images[rows], labels[rows]
        return TrainingSet(images=images.to(pick_device()), labels=labels, mirror=self.train.mirror)

    def ordinarily_trained(self, rows: Tensor | None = None) -> nn.Module:
        """A model trained as the pipeline trains its control, on all rows or on some."""
        return train_control(self.fresh_model(), self.training_set(rows), self.recipe, NullWatch()).eval()

    @cached_property
    def undefended(self) -> tuple[nn.Module, float]:
        """The model trained on everything as given, and the seconds that took."""
        start = time.perf_counter()
        model = self.ordinarily_trained()
        return model, time.perf_counter() - start


def load_case(store: Store, run_id: str, parameters: dict[str, Any]) -> Case:
    """Reads the poisoned data of a run; lets the ingest stage make them if the run has none yet.

    Args:
        store: Store at its root.
        run_id: The run.
        parameters: The pipeline's.
    """
    from components.ingest.stage import run_stage

    configs = stage_configs(parameters)
    found = Artifacts(store, run_id, ("ingest", "truth"))
    if "ingest" not in found.parents:
        run_stage(configs["ingest"], store.root, run_id)
        found = Artifacts(store, run_id, ("ingest", "truth"))
    train, holdout = read_rows(found, "train"), read_rows(found, "holdout")
    attack, is_poisoned = None, torch.zeros(len(train.labels), dtype=torch.bool)
    if "truth" in found.parents:
        truth = found.read_table("truth", "poison_truth", POISON_TRUTH)
        is_poisoned = torch.tensor(truth["is_poisoned"].to_pylist()[: len(train.labels)])
        channels, height, width = train.images.shape[1:]
        attack = make_attack(
            AttackConfig(**found.parents["truth"].manifest.facts["attack"]),
            num_classes=len(train.class_names),
            image_shape=(channels, height, width),
        )
    return Case(
        train=train,
        holdout=holdout,
        attack=attack,
        is_poisoned=is_poisoned,
        recipe=configs["control"],
        evaluate=configs["evaluate"],
    )


def measured(case: Case, outcome: Outcome) -> dict[str, float | None]:
    """A method's figures, by the functions with which the evaluate stage measures; None where there is nothing."""
    images, labels, batch = case.holdout.images, case.holdout.labels, case.evaluate.batch_size
    acc, _ = accuracy(outcome.model, images, labels, batch)
    rates = attack_success(outcome.model, case.attack, images, labels, batch) if case.attack else []
    figures: dict[str, float | None] = dict.fromkeys(("auroc", "tpr_at_1pct_fpr", "flagged_clean"))
    poisoned = case.is_poisoned.numpy()
    if outcome.suspicion is not None:
        scores = outcome.suspicion.numpy().astype(np.float32)
        figures["auroc"] = area_under_roc(scores, poisoned)
        figures["tpr_at_1pct_fpr"] = true_positive_rate(scores, poisoned, 0.01)
    if outcome.flagged is not None and not poisoned.all():
        figures["flagged_clean"] = float(outcome.flagged.numpy()[~poisoned].mean())
    return {"acc": acc, "asr": max(rates) if rates else None, **figures}


def restart_peak() -> None:
    """Makes ``peak_mib`` count from now, where the kernel can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float | None:
    """Largest resident set since ``restart_peak``, MiB; None where /proc does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None
