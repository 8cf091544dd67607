"""The warmup stage: train on everything and record how each sample is learned; or train the undefended control."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from components.common.runs.lifecycle import Published, StageRun
from components.warmup.config import ControlConfig, WarmupConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from components.common.runs.inputs import Rows
    from components.warmup.algorithm import Traces

__all__ = ["run_stage"]


def run_stage(
    config: WarmupConfig | ControlConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]
) -> Published:
    """Runs the stage; a ``ControlConfig`` trains the undefended model, as stage ``control``.

    Raises:
        UntaintError: An input breaks its contract, training diverges, or the store fails.
    """
    name = "control" if isinstance(config, ControlConfig) else "warmup"
    with StageRun(name, config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            return done
        # After StageRun, so that torch and the validation process are imported side by side.
        from components.common.learning.history import watched_sample
        from components.common.learning.launch import train_on_devices
        from components.common.learning.seeding import make_deterministic
        from components.common.models import build_model
        from components.common.runs.inputs import add_model, read_both
        from components.warmup.algorithm import Traces, train

        make_deterministic(config.seed)
        rows, holdout = read_both(run)
        build = partial(build_model, config.model, rows.spec)
        model = build()
        metrics = {}
        with run.timed(name):
            result = train_on_devices(
                partial(train, config=config, mirror=rows.mirror),
                build,
                model,
                {
                    "images": rows.images,
                    "labels": rows.labels,
                    **watched_sample(holdout.images, holdout.labels),
                },
                run,
                seed=config.seed,
            )
        if "traces" in result:
            traces = Traces(**result["traces"])
            _add_traces(run, rows, traces)
            metrics["last_loss"] = float(traces.loss[-1].mean())
        model.load_state_dict(result["weights"])
        add_model(run, "model", config.model, rows.spec, model)
        return run.publish(
            facts={"model": config.model, "device": result["device"], "history": result["history"]}, metrics=metrics
        )


def _add_traces(run: StageRun, rows: Rows, traces: Traces) -> None:
    import numpy as np
    import pyarrow as pa

    from components.common.tables.tables import MIXING, TRACES

    epochs, n = traces.loss.shape
    ids = rows.ids.to_numpy()
    table = pa.table(
        {
            "sample_id": np.tile(ids, epochs),
            "epoch": np.repeat(np.arange(1, epochs + 1, dtype=np.int16), n),
            "loss": traces.loss.reshape(-1).numpy(),
            "entropy": traces.entropy.reshape(-1).numpy(),
            "given_probability": traces.given_probability.reshape(-1).numpy(),
        },
        schema=TRACES.schema,
    )
    run.add_table("traces", table, TRACES, ids=rows.ids)
    hold: dict[str, pa.Array] = {f"hold_{kind}": pa.array(value.numpy()) for kind, value in traces.hold.items()}
    run.add_table("mixing", pa.table({"sample_id": ids, **hold}, schema=MIXING.schema), MIXING, ids=rows.ids)
