"""The unlearn stage: probe the split's proposals by forgetting them, publish the refined split and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.common.runs.lifecycle import Published, StageRun
from components.unlearn.config import UnlearnConfig

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from components.unlearn.algorithm import Find, Refined

__all__ = ["run_stage"]

_SHAKEN, _FOREIGN = "shaken", "foreign"


def run_stage(config: UnlearnConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]) -> Published:
    """Runs the stage.

    Raises:
        UntaintError: An input breaks its contract, or the store fails.
    """
    with StageRun("unlearn", config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            return done
        from components.common.learning.devices import pick_device
        from components.common.learning.seeding import make_deterministic
        from components.common.runs.inputs import add_model, read_model, read_rows
        from components.common.tables.tables import split_spec
        from components.unlearn.algorithm import refine

        make_deterministic(config.seed)
        device = pick_device()
        rows = read_rows(run, "train")
        signals = list(run.parents["split"].manifest.facts["signals"])
        split = run.read_table("split", "split", split_spec(signals), ids=rows.ids)
        model, architecture = read_model(run, "warmup", "model", device)
        scores = {name: split[f"signal_{name}"].to_numpy() for name in signals}
        with run.timed("unlearn"):
            ratio = float(run.parents["split"].manifest.config["isolation_ratio"])
            refined = refine(
                model,
                rows.images.to(device),
                rows.labels,
                scores,
                config,
                isolation_ratio=ratio,
                mirror=rows.mirror,
                watch=run,
            )
        names = [*signals, _SHAKEN, _FOREIGN]
        spec = split_spec(names)
        run.add_table("split", _refined_table(split, refined, spec.schema), spec, ids=rows.ids)
        add_model(run, "model", architecture, rows.spec, refined.model)
        poisoned, suspect = int(refined.poisoned.sum()), int(refined.suspect.sum())
        return run.publish(
            facts={
                "model": architecture,
                "signals": names,
                "verdict": "poison found" if refined.found else "no poison found",
                "probes": [record for find in refined.finds for record in _records(find, rows.class_names)],
                "mixed_classes": [rows.class_names[find.label] for find in refined.accepted if find.mixed],
                "mapping": {
                    rows.class_names[looks]: rows.class_names[label] for looks, label in refined.mapping.items()
                },
                "doubts": _doubts(refined.doubtful),
                "rolled_back": refined.rolled_back,
            },
            metrics={"poisoned": poisoned, "suspect": suspect, "finds": len(refined.accepted)},
        )


def _records(find: Find, class_names: list[str]) -> list[dict[str, object]]:
    return [
        {
            "signal": result.proposal.signal,
            "label": class_names[find.label],
            "isolated": len(result.proposal.isolated),
            "forgotten": round(result.forgotten, 4),
            "retained": round(result.retained, 4),
            "spilled": round(result.spilled, 4),
            "spared": round(result.valley.below, 4),
            "valley": round(result.valley.depth, 4),
            "accepted": result is find.chosen,
        }
        for result in find.probes
    ]


def _doubts(doubtful: Tensor) -> list[list[float]]:
    """What is doubted, as [class that a sample looks like, its label, probability from which]."""
    return [
        [looks, label, round(float(doubtful[looks, label]), 4)] for looks, label in (doubtful < 1).nonzero().tolist()
    ]


def _refined_table(split: pa.Table, refined: Refined, schema: pa.Schema) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    poisoned, suspect = refined.poisoned.numpy(), refined.suspect.numpy()
    columns = {name: split[name] for name in split.column_names}
    columns["assignment"] = pa.array(
        np.where(poisoned, "poisoned", np.where(suspect, "suspect", "clean")).tolist(), pa.string()
    )
    # What forgetting moved outranks what the signals guessed; among the unmoved the first guess keeps the order.
    shaken, foreign, doubted = refined.shaken.numpy(), refined.foreign.numpy(), refined.doubted.numpy()
    columns["suspicion"] = split["suspicion"]
    if refined.found:
        # A sample that is doubted and did not move stands with those that moved by half.
        known = np.maximum(shaken, 0.5 * doubted)
        columns["suspicion"] = np.where(known > 0, 0.5 + known / 2, split["suspicion"].to_numpy() / 2).astype(
            np.float32
        )
    columns[f"signal_{_SHAKEN}"], columns[f"signal_{_FOREIGN}"] = shaken, foreign
    columns["reasons"] = pa.array(
        [
            [*known, *((_SHAKEN,) if shook else ()), *((_FOREIGN,) if strange else ())]
            for known, shook, strange in zip(
                split["reasons"].to_pylist(), (poisoned | suspect) & (shaken > 0), doubted, strict=True
            )
        ],
        pa.list_(pa.string()),
    )
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
