"""The finetune stage: train the clean model on trusted labels and unlabelled suspects, publish the last split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from components.common.runs.lifecycle import Published, StageRun
from components.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from torch import Tensor

__all__ = ["run_stage"]

_DOUBTED = "doubted"


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

        from components.common.learning.history import watched_sample
        from components.common.learning.launch import train_on_devices
        from components.common.learning.seeding import make_deterministic
        from components.common.models import build_model
        from components.common.runs.inputs import add_model, read_both, read_model
        from components.common.tables.tables import split_spec
        from components.finetune.algorithm import train

        make_deterministic(config.seed)
        rows, holdout = read_both(run)
        spec = split_spec(run.parents["unlearn"].manifest.facts["signals"])
        split = run.read_table("unlearn", "split", spec, ids=rows.ids)
        labelled = torch.tensor([assignment == "clean" for assignment in split["assignment"].to_pylist()])
        model, architecture = read_model(run, "unlearn", "model")
        with run.timed("finetune"):
            result = train_on_devices(
                partial(train, config=config, mirror=rows.mirror),
                partial(build_model, architecture, rows.spec),
                model,
                {
                    "images": rows.images,
                    "labels": rows.labels,
                    "labelled": labelled,
                    "doubtful": _doubtful(run.parents["unlearn"].manifest.facts["doubts"], rows.spec.num_classes),
                    **watched_sample(holdout.images, holdout.labels),
                },
                run,
                seed=config.seed,
            )
        model.load_state_dict(result["weights"])
        add_model(run, "model", architecture, rows.spec, model)
        lost = labelled & ~result["labelled"]
        run.add_table("split", _split_again(split, lost.numpy()), spec, ids=rows.ids)
        return run.publish(
            facts={
                "model": architecture,
                "device": result["device"],
                "history": result["history"],
                "signals": run.parents["unlearn"].manifest.facts["signals"],
                # How many lost their label at each look; a 0 at the end says that the split stood still.
                "lost_at_looks": result["lost"].tolist(),
            },
            metrics={
                "labelled": int(result["labelled"].sum()),
                "unlabelled": int((~result["labelled"]).sum()),
                "lost": int(lost.sum()),
            },
        )


def _doubtful(doubts: Sequence[Sequence[float]], num_classes: int) -> Tensor:
    """The matrix that ``fine_tune`` takes, from what the unlearn stage published."""
    import torch

    from components.common.learning.doubts import NEVER

    matrix = torch.full((num_classes, num_classes), NEVER)
    for looks, label, above in doubts:
        matrix[int(looks), int(label)] = above
    return matrix


def _split_again(split: pa.Table, lost: npt.NDArray[np.bool_]) -> pa.Table:
    """The split with those that lost their label while the model got better."""
    import numpy as np
    import pyarrow as pa

    assignment = np.where(lost, "suspect", np.array(split["assignment"].to_pylist()))
    # Doubted by a better model than the unlearn stage had: with those that moved by half.
    suspicion = np.where(lost, np.maximum(split["suspicion"].to_numpy(), 0.75), split["suspicion"].to_numpy())
    reasons = [
        [*known, _DOUBTED] if gone else known for known, gone in zip(split["reasons"].to_pylist(), lost, strict=True)
    ]
    columns = {name: split[name] for name in split.column_names}
    columns["assignment"] = pa.array(assignment.tolist(), pa.string())
    columns["suspicion"] = suspicion.astype(np.float32)
    columns["reasons"] = pa.array(reasons, pa.list_(pa.string()))
    return pa.table(columns, schema=split.schema)
