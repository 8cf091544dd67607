"""The promote step as a KFP container component: image, inputs, outputs."""

from typing import Any, NamedTuple

from kfp import dsl

from components.container import Published, deliver, stage_container
from components.promote.config import PromoteConfig

__all__ = ["build", "run"]


class PromoteOutputs(NamedTuple):
    """The step's manifest, and how it came out."""

    manifest_uri: str
    manifest_sha256: str
    outcome: str


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this step.
    """

    def promote(
        store_root: str,
        run_id: str,
        name: str,
        claim_uri: str,
        claim_sha256: str,
        settings: dict[str, Any],
        lineage: dsl.Output[dsl.Model],
        metrics: dsl.Output[dsl.Metrics],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
        outcome: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Makes the run's model the champion if every gate holds, and notes the drop as done.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run, whose evaluate stage is finished.
            name: Name of the model.
            claim_uri: Manifest of the claim step; empty for a run without a claim.
            claim_sha256: Hex sha256 of that manifest.
            settings: Limits of the gates by name; what is left out has its default.
            lineage: The decision in the run graph.
            metrics: Whether the model was promoted, and how many gates held.
            manifest_uri: Where the decision's manifest lies.
            manifest_sha256: Hex sha256 of that manifest.
            outcome: ``promoted`` or ``kept champion``.
        """
        return stage_container("promote", image)

    return dsl.container_component(promote)


def run(
    store_root: str,
    run_id: str,
    name: str,
    claim_uri: str,
    claim_sha256: str,
    settings: dict[str, Any],
    lineage: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> PromoteOutputs:
    """Runs the step; KFP's executor calls it in the container."""
    from components.promote.stage import run_stage

    facts: dict[str, Any] = {}

    def work() -> Published:
        config = PromoteConfig(**settings, name=name)
        published = run_stage(config, store_root, run_id, {"claim": (claim_uri, claim_sha256)})
        facts.update(published.manifest.facts)
        return published

    outputs = deliver(work, lineage, metrics)
    return PromoteOutputs(*outputs, outcome=facts["outcome"])
