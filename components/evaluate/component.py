"""The evaluate stage as a KFP container component: image, inputs, outputs."""

from typing import Any

from kfp import dsl

from components.container import Outputs, Published, deliver, stage_container
from components.evaluate.config import EvaluateConfig

__all__ = ["build", "run"]


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this stage.
    """

    def evaluate(
        store_root: str,
        run_id: str,
        settings: dict[str, Any],
        ingest_uri: str,
        ingest_sha256: str,
        truth_uri: str,
        truth_sha256: str,
        warmup_uri: str,
        warmup_sha256: str,
        split_uri: str,
        split_sha256: str,
        unlearn_uri: str,
        unlearn_sha256: str,
        finetune_uri: str,
        finetune_sha256: str,
        control_uri: str,
        control_sha256: str,
        lineage: dsl.Output[dsl.Dataset],
        metrics: dsl.Output[dsl.Metrics],
        report: dsl.Output[dsl.HTML],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Measures ACC and ASR on the holdout and the split against the truth, and writes the report.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run; its results lie under ``<store_root>/runs/<run_id>/``.
            settings: Further settings of the stage by name; what is left out has its default.
            ingest_uri: Manifest of the ingest stage.
            ingest_sha256: Hex sha256 of that manifest.
            truth_uri: Manifest of the injected attack's ground truth, for evaluate alone; empty without one.
            truth_sha256: Hex sha256 of that manifest.
            warmup_uri: Manifest of the warmup stage.
            warmup_sha256: Hex sha256 of that manifest.
            split_uri: Manifest of the split stage.
            split_sha256: Hex sha256 of that manifest.
            unlearn_uri: Manifest of the unlearn stage.
            unlearn_sha256: Hex sha256 of that manifest.
            finetune_uri: Manifest of the finetune stage.
            finetune_sha256: Hex sha256 of that manifest.
            control_uri: Manifest of the undefended model; empty when there is none.
            control_sha256: Hex sha256 of that manifest.
            lineage: The stage's result in the run graph: store address, digest, rows.
            metrics: The stage's figures.
            report: The report as one self-contained page.
            manifest_uri: Where the stage's manifest lies.
            manifest_sha256: Hex sha256 of that manifest.
        """
        return stage_container("evaluate", image)

    return dsl.container_component(evaluate)


def run(
    store_root: str,
    run_id: str,
    settings: dict[str, Any],
    ingest_uri: str,
    ingest_sha256: str,
    truth_uri: str,
    truth_sha256: str,
    warmup_uri: str,
    warmup_sha256: str,
    split_uri: str,
    split_sha256: str,
    unlearn_uri: str,
    unlearn_sha256: str,
    finetune_uri: str,
    finetune_sha256: str,
    control_uri: str,
    control_sha256: str,
    lineage: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> Outputs:
    """Runs the stage; KFP's executor calls it in the container."""
    from components.evaluate.stage import run_stage

    parents = {
        "ingest": (ingest_uri, ingest_sha256),
        "truth": (truth_uri, truth_sha256),
        "warmup": (warmup_uri, warmup_sha256),
        "split": (split_uri, split_sha256),
        "unlearn": (unlearn_uri, unlearn_sha256),
        "finetune": (finetune_uri, finetune_sha256),
        "control": (control_uri, control_sha256),
    }

    def work() -> Published:
        published, page = run_stage(EvaluateConfig(**settings), store_root, run_id, parents)
        with open(report.path, "wb") as file:
            file.write(page)
        return published

    return deliver(work, lineage, metrics)
