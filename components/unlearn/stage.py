"""The unlearn stage: probe the split's proposals by forgetting them, publish the refined split and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.common.contracts.configs import UnlearnConfig
from components.common.lifecycle import Published, StageRun

if TYPE_CHECKING:
    import pyarrow as pa

    from components.unlearn.algorithm import Probe, Refined

__all__ = ["run_stage"]

_SHAKEN = "shaken"


def run_stage(config: UnlearnConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]) -> Published:
    """Runs the stage.

    Raises:
        UntaintError: An input breaks its contract, or the store fails.
    """
    with StageRun("unlearn", config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            return done
        from components.common.contracts.tables import split_spec
        from components.common.inputs import add_model, read_model, read_rows
        from components.common.learning.devices import pick_device
        from components.common.learning.seeding import make_deterministic
        from components.unlearn.algorithm import make_proposals, refine

        make_deterministic(config.seed)
        device = pick_device()
        rows = read_rows(run, "train")
        signals = list(run.parents["split"].manifest.facts["signals"])
        split = run.read_table("split", "split", split_spec(signals), ids=rows.ids)
        model, architecture = read_model(run, "warmup", "model", device)
        scores = {name: split[f"signal_{name}"].to_numpy() for name in signals}
        with run.timed("unlearn"):
            ratio = float(run.parents["split"].manifest.config["isolation_ratio"])
            proposals = make_proposals(scores, rows.labels.numpy(), ratio, config)
            refined, probes = refine(
                model, rows.images.to(device), rows.labels, proposals, config, mirror=rows.mirror, watch=run
            )
        spec = split_spec([*signals, _SHAKEN])
        run.add_table("split", _refined_table(split, refined, spec.schema), spec, ids=rows.ids)
        add_model(run, "model", architecture, rows.spec, refined.model)
        poisoned, suspect = int(refined.poisoned.sum()), int(refined.suspect.sum())
        return run.publish(
            facts={
                "model": architecture,
                "signals": [*signals, _SHAKEN],
                "verdict": "poison found" if refined.accepted else "no poison found",
                "probes": [_record(result, rows.class_names) for result in probes],
            },
            metrics={"poisoned": poisoned, "suspect": suspect, "probes_accepted": len(refined.accepted)},
        )


def _record(result: Probe, class_names: list[str]) -> dict[str, object]:
    return {
        "signal": result.proposal.signal,
        "label": class_names[result.proposal.label],
        "isolated": len(result.proposal.isolated),
        "forgotten": round(result.forgotten, 4),
        "retained": round(result.retained, 4),
        "spilled": round(result.spilled, 4),
        "accepted": result.accepted,
    }


def _refined_table(split: pa.Table, refined: Refined, schema: pa.Schema) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    poisoned, suspect = refined.poisoned.numpy(), refined.suspect.numpy()
    columns = {name: split[name] for name in split.column_names}
    columns["assignment"] = pa.array(
        np.where(poisoned, "poisoned", np.where(suspect, "suspect", "clean")).tolist(), pa.string()
    )
    # What forgetting moved outranks what the signals guessed; among the unmoved the first guess keeps the order.
    shaken = refined.shaken.numpy()
    columns["suspicion"] = np.where(shaken > 0, 0.5 + shaken / 2, split["suspicion"].to_numpy() / 2).astype(np.float32)
    if not refined.accepted:
        columns["suspicion"] = split["suspicion"]
    columns[f"signal_{_SHAKEN}"] = shaken
    columns["reasons"] = pa.array(
        [
            [*known, _SHAKEN] if moved else known
            for known, moved in zip(split["reasons"].to_pylist(), poisoned | suspect, strict=True)
        ],
        pa.list_(pa.string()),
    )
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
