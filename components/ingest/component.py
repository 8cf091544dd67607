"""The ingest stage as a KFP container component: image, inputs, outputs."""

from typing import Any, NamedTuple

from kfp import dsl

from components.container import Published, deliver, stage_container
from components.ingest.config import IngestConfig

__all__ = ["build", "run"]


class IngestOutputs(NamedTuple):
    """The stage's own manifest, and that of the ground truth, which goes to evaluate alone."""

    manifest_uri: str
    manifest_sha256: str
    truth_uri: str
    truth_sha256: str


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this stage.
    """

    def ingest(
        store_root: str,
        run_id: str,
        dataset: str,
        train_limit: int,
        attack: str,
        poison_rate: float,
        target_label: int,
        seed: int,
        settings: dict[str, Any],
        lineage: dsl.Output[dsl.Dataset],
        metrics: dsl.Output[dsl.Metrics],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
        truth_uri: dsl.OutputPath(str),
        truth_sha256: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Reads a dataset, builds the sample index and injects an attack if asked.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run; its results lie under ``<store_root>/runs/<run_id>/``.
            dataset: Name of the dataset: ``mnist5k``, ``cifar10`` or ``parquet:<folder or s3 prefix>``.
            train_limit: Training samples to take, stratified; 0 for all.
            attack: Attack to inject, or ``none`` to take the data as they are.
            poison_rate: Poisoned share of the training set, in [0, 1].
            target_label: Class that triggered images are to be taken for.
            seed: Seed of everything random.
            settings: Further settings of the stage by name; what is left out has its default.
            lineage: The stage's result in the run graph: store address, digest, rows.
            metrics: The stage's figures.
            manifest_uri: Where the stage's manifest lies.
            manifest_sha256: Hex sha256 of that manifest.
            truth_uri: Manifest of the injected attack's ground truth, for evaluate alone; empty without one.
            truth_sha256: Hex sha256 of that manifest.
        """
        return stage_container("ingest", image)

    return dsl.container_component(ingest)


def run(
    store_root: str,
    run_id: str,
    dataset: str,
    train_limit: int,
    attack: str,
    poison_rate: float,
    target_label: int,
    seed: int,
    settings: dict[str, Any],
    lineage: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> IngestOutputs:
    """Runs the stage; KFP's executor calls it in the container."""
    from components.ingest.stage import run_stage

    truth = {"uri": "", "sha256": ""}

    def work() -> Published:
        config = IngestConfig(
            **{
                **settings,
                "dataset": dataset,
                "train_limit": train_limit,
                "attack": attack,
                "poison_rate": poison_rate,
                "target_label": target_label,
                "seed": seed,
            },
        )
        result = run_stage(config, store_root, run_id)
        if result.truth is not None:
            truth.update(uri=result.truth.uri, sha256=result.truth.sha256)
        return result.main

    outputs = deliver(work, lineage, metrics)
    return IngestOutputs(*outputs, truth_uri=truth["uri"], truth_sha256=truth["sha256"])
