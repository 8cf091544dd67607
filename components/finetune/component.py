"""The finetune stage as a KFP container component: image, inputs, outputs."""

from typing import Any

from kfp import dsl

from components.container import Outputs, Published, deliver, stage_container
from components.finetune.config import FinetuneConfig

__all__ = ["build", "run"]


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this stage.
    """

    def finetune(
        store_root: str,
        run_id: str,
        epochs: int,
        seed: int,
        settings: dict[str, Any],
        ingest_uri: str,
        ingest_sha256: str,
        unlearn_uri: str,
        unlearn_sha256: str,
        lineage: dsl.Output[dsl.Model],
        metrics: dsl.Output[dsl.Metrics],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Trains the clean model: labels of trusted samples, images of all.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run; its results lie under ``<store_root>/runs/<run_id>/``.
            epochs: Passes over the training set.
            seed: Seed of everything random.
            settings: Further settings of the stage by name; what is left out has its default.
            ingest_uri: Manifest of the ingest stage.
            ingest_sha256: Hex sha256 of that manifest.
            unlearn_uri: Manifest of the unlearn stage.
            unlearn_sha256: Hex sha256 of that manifest.
            lineage: The stage's result in the run graph: store address, digest, rows.
            metrics: The stage's figures.
            manifest_uri: Where the stage's manifest lies.
            manifest_sha256: Hex sha256 of that manifest.
        """
        return stage_container("finetune", image)

    return dsl.container_component(finetune)


def run(
    store_root: str,
    run_id: str,
    epochs: int,
    seed: int,
    settings: dict[str, Any],
    ingest_uri: str,
    ingest_sha256: str,
    unlearn_uri: str,
    unlearn_sha256: str,
    lineage: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> Outputs:
    """Runs the stage; KFP's executor calls it in the container."""
    from components.finetune.stage import run_stage

    parents = {"ingest": (ingest_uri, ingest_sha256), "unlearn": (unlearn_uri, unlearn_sha256)}

    def work() -> Published:
        config = FinetuneConfig(**{**settings, "epochs": epochs, "seed": seed})
        return run_stage(config, store_root, run_id, parents)

    return deliver(work, lineage, metrics)
