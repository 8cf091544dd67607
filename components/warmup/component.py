"""The warmup stage as a KFP container component: image, inputs, outputs."""

from typing import Any

from kfp import dsl

from components.container import Outputs, Published, deliver, stage_container
from components.warmup.config import ControlConfig, WarmupConfig

__all__ = ["build", "run"]


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this stage.
    """

    def warmup(
        store_root: str,
        run_id: str,
        role: str,
        model: str,
        epochs: int,
        seed: int,
        settings: dict[str, Any],
        ingest_uri: str,
        ingest_sha256: str,
        lineage: dsl.Output[dsl.Model],
        metrics: dsl.Output[dsl.Metrics],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Trains on everything for a few epochs and records how each sample is learned.

        In role ``control`` it trains the undefended model instead.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run; its results lie under ``<store_root>/runs/<run_id>/``.
            role: ``warmup``, or ``control`` for the undefended model.
            model: Name of the model.
            epochs: Passes over the training set.
            seed: Seed of everything random.
            settings: Further settings of the stage by name; what is left out has its default.
            ingest_uri: Manifest of the ingest stage.
            ingest_sha256: Hex sha256 of that manifest.
            lineage: The stage's result in the run graph: store address, digest, rows.
            metrics: The stage's figures.
            manifest_uri: Where the stage's manifest lies.
            manifest_sha256: Hex sha256 of that manifest.
        """
        return stage_container("warmup", image)

    return dsl.container_component(warmup)


def run(
    store_root: str,
    run_id: str,
    role: str,
    model: str,
    epochs: int,
    seed: int,
    settings: dict[str, Any],
    ingest_uri: str,
    ingest_sha256: str,
    lineage: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> Outputs:
    """Runs the stage; KFP's executor calls it in the container."""
    from components.warmup.stage import run_stage

    parents = {"ingest": (ingest_uri, ingest_sha256)}

    def work() -> Published:
        kind: type[ControlConfig | WarmupConfig] = ControlConfig if role == "control" else WarmupConfig
        config = kind(**{**settings, "model": model, "epochs": epochs, "seed": seed})
        return run_stage(config, store_root, run_id, parents)

    return deliver(work, lineage, metrics)
