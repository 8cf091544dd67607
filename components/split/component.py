"""The split stage as a KFP container component: image, inputs, outputs."""

from typing import Any

from kfp import dsl

from components.container import Outputs, Published, deliver, stage_container
from components.split.config import SplitConfig

__all__ = ["build", "run"]


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this stage.
    """

    def split(
        store_root: str,
        run_id: str,
        seed: int,
        settings: dict[str, Any],
        ingest_uri: str,
        ingest_sha256: str,
        warmup_uri: str,
        warmup_sha256: str,
        lineage: dsl.Output[dsl.Dataset],
        metrics: dsl.Output[dsl.Metrics],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Scores every training sample by several signals and proposes which look poisoned.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run; its results lie under ``<store_root>/runs/<run_id>/``.
            seed: Seed of everything random.
            settings: Further settings of the stage by name; what is left out has its default.
            ingest_uri: Manifest of the ingest stage.
            ingest_sha256: Hex sha256 of that manifest.
            warmup_uri: Manifest of the warmup stage.
            warmup_sha256: Hex sha256 of that manifest.
            lineage: The stage's result in the run graph: store address, digest, rows.
            metrics: The stage's figures.
            manifest_uri: Where the stage's manifest lies.
            manifest_sha256: Hex sha256 of that manifest.
        """
        return stage_container("split", image)

    return dsl.container_component(split)


def run(
    store_root: str,
    run_id: str,
    seed: int,
    settings: dict[str, Any],
    ingest_uri: str,
    ingest_sha256: str,
    warmup_uri: str,
    warmup_sha256: str,
    lineage: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> Outputs:
    """Runs the stage; KFP's executor calls it in the container."""
    from components.split.stage import run_stage

    parents = {"ingest": (ingest_uri, ingest_sha256), "warmup": (warmup_uri, warmup_sha256)}

    def work() -> Published:
        config = SplitConfig(**{**settings, "seed": seed})
        return run_stage(config, store_root, run_id, parents)

    return deliver(work, lineage, metrics)
