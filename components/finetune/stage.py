"""The finetune stage: train the clean model on trusted labels and unlabelled suspects."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from components.common.contracts.configs import FinetuneConfig
from components.common.lifecycle import Published, StageRun

__all__ = ["run_stage"]


def run_stage(
    config: FinetuneConfig, store_root: str, run_id: str, parents: Mapping[str, tuple[str, str]]
) -> Published:
    """Runs the stage.

    Raises:
        UntaintError: An input breaks its contract, training diverges, or the store fails.
    """
    with StageRun("finetune", config, store_root, run_id, parents) as run:
        done = run.finished()
        if done is not None:
            return done
        import torch

        from components.common.contracts.tables import split_spec
        from components.common.inputs import add_model, read_model, read_rows
        from components.common.learning.launch import train_on_devices
        from components.common.learning.seeding import make_deterministic
        from components.common.models import build_model
        from components.finetune.algorithm import train

        make_deterministic(config.seed)
        rows = read_rows(run, "train")
        spec = split_spec(run.parents["unlearn"].manifest.facts["signals"])
        split = run.read_table("unlearn", "split", spec, ids=rows.ids)
        labelled = torch.tensor([assignment == "clean" for assignment in split["assignment"].to_pylist()])
        model, architecture = read_model(run, "unlearn", "model")
        with run.timed("finetune"):
            result = train_on_devices(
                partial(train, config=config, mirror=rows.mirror),
                partial(build_model, architecture, rows.spec),
                model,
                {"images": rows.images, "labels": rows.labels, "labelled": labelled},
                run,
                seed=config.seed,
            )
        model.load_state_dict(result["weights"])
        add_model(run, "model", architecture, rows.spec, model)
        return run.publish(
            facts={"model": architecture, "device": result["device"]},
            metrics={"labelled": int(labelled.sum()), "unlabelled": int((~labelled).sum())},
        )
