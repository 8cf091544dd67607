"""The split stage: read what the warm-up recorded, score every training sample, publish the first split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.common.runs.lifecycle import Published, StageRun
from components.common.signals import Evidence
from components.common.tables.tables import MIXING, MIXING_KINDS, SAMPLE_INDEX, TRACES, split_spec
from components.split.algorithm import first_split
from components.split.config import SplitConfig

__all__ = ["run_stage"]


def run_stage(config: SplitConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]) -> Published:
    """Runs the stage.

    Raises:
        UntaintError: An input breaks its contract, or the store fails.
    """
    with StageRun("split", config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            return done
        index = run.read_table("ingest", "sample_index", SAMPLE_INDEX)
        train = index.filter(pc.equal(index["subset"], "train"))
        ids = train["sample_id"].combine_chunks()
        traces = run.read_table("warmup", "traces", TRACES, ids=ids)
        mixing = run.read_table("warmup", "mixing", MIXING, ids=ids)
        by_epoch = {
            name: traces[name].to_numpy().reshape(-1, len(ids)) for name in ("loss", "entropy", "given_probability")
        }
        evidence = Evidence(
            labels=train["given_label"].to_numpy().astype(np.int64),
            hold={kind: mixing[f"hold_{kind}"].to_numpy() for kind in MIXING_KINDS},
            **by_epoch,
        )
        split = first_split(evidence, config)
        spec = split_spec(tuple(split.signals))
        table = pa.table(
            {
                "sample_id": ids,
                "assignment": pa.array(split.assignment.tolist(), pa.string()),
                "suspicion": split.suspicion,
                **{f"signal_{name}": values for name, values in split.signals.items()},
                "reasons": pa.array(split.reasons, pa.list_(pa.string())),
            },
            schema=spec.schema,
        )
        run.add_table("split", table, spec, ids=ids)
        return run.publish(
            facts={"signals": list(split.signals)},
            metrics={"proposed": int((split.assignment == "suspect").sum())},
        )
