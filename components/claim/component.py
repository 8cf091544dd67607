"""The claim step as a KFP container component: image, inputs, outputs."""

from typing import Any, NamedTuple

from kfp import dsl

from components.common.contracts.configs import ClaimConfig, from_mapping
from components.container import Published, deliver, stage_container

__all__ = ["build", "run"]


class ClaimOutputs(NamedTuple):
    """The step's manifest, whether there is something to train, what, and as which run."""

    manifest_uri: str
    manifest_sha256: str
    outcome: str
    dataset: str
    run_id: str


def build(image: str) -> Any:
    """The component with its image.

    Args:
        image: Full image reference of this step.
    """

    def claim(
        store_root: str,
        given_run_id: str,
        job_id: str,
        plan: str,
        name: str,
        drops: str,
        since: str,
        until: str,
        settings: dict[str, Any],
        lineage: dsl.Output[dsl.Dataset],
        metrics: dsl.Output[dsl.Metrics],
        manifest_uri: dsl.OutputPath(str),
        manifest_sha256: dsl.OutputPath(str),
        outcome: dsl.OutputPath(str),
        dataset: dsl.OutputPath(str),
        run_id: dsl.OutputPath(str),
    ) -> dsl.ContainerSpec:
        """Claims one drop that nobody has trained or is training, or says that there is nothing new.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            given_run_id: Identifier of the run, which holds the claim; empty for ``job_id``.
            job_id: KFP's id of its run; a scheduled run learns it from a placeholder alone.
            plan: Digest of what the run does with a drop; a takeover by a run of the same plan resumes from the data of the
                run that died. Empty for a run that resumes from no other's.
            name: Name of the model that is trained on the drops.
            drops: ``s3://bucket/prefix`` with one folder per drop.
            since: First date of the drops to take, YYYY-MM-DD; empty for no bound.
            until: Last date of the drops to take, inclusive; empty for no bound.
            settings: Further settings of the step by name; what is left out has its default.
            lineage: The step's result in the run graph.
            metrics: Whether a drop was claimed, and how many were refused and passed over.
            manifest_uri: Where the claim's manifest lies; empty when there is nothing new.
            manifest_sha256: Hex sha256 of that manifest.
            outcome: ``claimed`` or ``nothing new``.
            dataset: The claimed drop as ingest's dataset; empty when there is nothing new.
            run_id: Identifier of the run under which all that follows keeps its data.
        """
        return stage_container("claim", image)

    return dsl.container_component(claim)


def run(
    store_root: str,
    given_run_id: str,
    job_id: str,
    plan: str,
    name: str,
    drops: str,
    since: str,
    until: str,
    settings: dict[str, Any],
    lineage: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> ClaimOutputs:
    """Runs the step; KFP's executor calls it in the container."""
    from components.claim.stage import run_stage

    facts: dict[str, Any] = {}
    run_id = given_run_id or job_id

    def work() -> Published:
        own = {"name": name, "drops": drops, "since": since, "until": until}
        published = run_stage(from_mapping(ClaimConfig, {**settings, **own}), store_root, run_id, plan)
        facts.update(published.manifest.facts)
        return published

    outputs = deliver(work, lineage, metrics)
    return ClaimOutputs(*outputs, outcome=facts["outcome"], dataset=facts["dataset"], run_id=facts["run_id"])
