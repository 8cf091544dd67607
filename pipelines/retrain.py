"""The retraining pipeline: claim a drop, train on it if there is one, and move the champion if the gates hold.

The training is the pipeline of ``training.py`` as it is, behind a condition: without a new drop nothing is started that
asks for a GPU or much memory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.claim.component import build as claim_component
from components.common.contracts.configs import ClaimConfig, FinetuneConfig, IngestConfig, WarmupConfig
from components.common.contracts.retraining import CLAIMED
from components.promote.component import build as promote_component
from pipelines.placement import pipeline_config, place
from pipelines.profiles import Profile
from pipelines.training import build as build_training
from pipelines.training import image_of

__all__ = ["CANARY_RATIO", "LIGHT_IMAGE", "PIPELINE_NAME", "build", "compile_pipeline", "default_parameters"]

PIPELINE_NAME = "untaint-retrain"
LIGHT_IMAGE = "split"
"""The stage whose image holds the claim and promote steps too: the smallest one, without PyTorch."""
CANARY_RATIO = 0.02
"""Share of the training set that carries a planted trigger, unless the user says otherwise; 0 plants none."""

_CLAIM = ClaimConfig()
_INGEST = IngestConfig()
_WARMUP = WarmupConfig()
_FINETUNE = FinetuneConfig()
_LIGHT: dict[str, Callable[[str], Any]] = {"claim": claim_component, "promote": promote_component}


def default_parameters() -> dict[str, Any]:
    """The pipeline's parameters without ``store_root``, ``run_id``, ``name`` and ``drops``, with their defaults."""
    from pipelines.settings import default_parameters as of_training

    injected = ("dataset", "attack", "poison_rate", "target_label")
    kept = {name: value for name, value in of_training().items() if name not in injected}
    kept["ingest_settings"] = {"canary_ratio": CANARY_RATIO}
    return {**kept, "since": _CLAIM.since, "until": _CLAIM.until, "claim_settings": {}, "promote_settings": {}}


def build(registry: str = "untaint", tag: str = "dev", profile: Profile | None = None, *, control: bool = False) -> Any:
    """The retraining pipeline for one set of images.

    Args:
        registry: Registry and path of the images, without a slash at its end; may be empty.
        tag: Tag of the images.
        profile: What a cluster grants each stage of the training; None for a plain pipeline, as local runs take it.
        control: Whether the undefended model is trained for comparison.

    Returns:
        The pipeline.
    """
    light = {name: make(image_of(LIGHT_IMAGE, registry, tag)) for name, make in _LIGHT.items()}

    def settle(task: Any, name: str) -> None:
        task.set_display_name(name)
        # What they find in the store changes while their parameters stay: a cached answer would be a stale one.
        task.set_caching_options(False)
        if profile is not None:
            place(task, name, profile, tag)

    follow_up = _follow_up(build_training(registry, tag, profile, control=control), light["promote"], settle)

    # The defaults below are KFP's interface, as in training.py.
    def untaint_retrain(
        store_root: str,
        run_id: str,
        name: str,
        drops: str,
        since: str = _CLAIM.since,
        until: str = _CLAIM.until,
        train_limit: int = _INGEST.train_limit,
        model: str = _WARMUP.model,
        seed: int = _INGEST.seed,
        warmup_epochs: int = _WARMUP.epochs,
        finetune_epochs: int = _FINETUNE.epochs,
        control_epochs: int = _WARMUP.epochs + _FINETUNE.epochs,
        claim_settings: dict[str, Any] = {},  # noqa: B006
        ingest_settings: dict[str, Any] = {},  # noqa: B006
        warmup_settings: dict[str, Any] = {},  # noqa: B006
        control_settings: dict[str, Any] = {},  # noqa: B006
        split_settings: dict[str, Any] = {},  # noqa: B006
        unlearn_settings: dict[str, Any] = {},  # noqa: B006
        finetune_settings: dict[str, Any] = {},  # noqa: B006
        evaluate_settings: dict[str, Any] = {},  # noqa: B006
        promote_settings: dict[str, Any] = {},  # noqa: B006
    ) -> None:
        """Trains on the oldest drop that nobody has trained, and makes the model the champion if the gates hold.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run. A schedule fills in ``[[ScheduledTime]]``, so that no two runs share it.
            name: Name of the model.
            drops: ``s3://bucket/prefix`` with one folder per drop.
            since: First date of the drops to take, YYYY-MM-DD; empty for no bound.
            until: Last date of the drops to take, inclusive; empty for no bound.
            train_limit: Training samples to take, stratified; 0 for all.
            model: Name of the model's architecture.
            seed: Seed of everything random.
            warmup_epochs: Passes of the warm-up over the training set.
            finetune_epochs: Passes of the fine-tuning over the training set.
            control_epochs: Passes of the undefended model.
            claim_settings: Further settings of the claim by name.
            ingest_settings: Further settings of ingest by name.
            warmup_settings: Further settings of warmup by name.
            control_settings: Further settings of the undefended model's training by name.
            split_settings: Further settings of split by name.
            unlearn_settings: Further settings of unlearn by name.
            finetune_settings: Further settings of finetune by name.
            evaluate_settings: Further settings of evaluate by name.
            promote_settings: Limits of the gates by name.
        """
        run = {"store_root": store_root, "run_id": run_id}
        claim = light["claim"](**run, name=name, drops=drops, since=since, until=until, settings=claim_settings)
        settle(claim, "claim")
        drop = follow_up(
            **run,
            name=name,
            outcome=claim.outputs["outcome"],
            dataset=claim.outputs["dataset"],
            claim_uri=claim.outputs["manifest_uri"],
            claim_sha256=claim.outputs["manifest_sha256"],
            train_limit=train_limit,
            model=model,
            seed=seed,
            warmup_epochs=warmup_epochs,
            finetune_epochs=finetune_epochs,
            control_epochs=control_epochs,
            ingest_settings=ingest_settings,
            warmup_settings=warmup_settings,
            control_settings=control_settings,
            split_settings=split_settings,
            unlearn_settings=unlearn_settings,
            finetune_settings=finetune_settings,
            evaluate_settings=evaluate_settings,
            promote_settings=promote_settings,
        )
        drop.set_display_name("drop")

    config = pipeline_config(profile) if profile is not None else None
    return dsl.pipeline(name=PIPELINE_NAME, pipeline_config=config)(untaint_retrain)


def _follow_up(training: Any, promote_component: Any, settle: Callable[[Any, str], None]) -> Any:
    """The part that needs a drop.

    A pipeline of its own, with the claim's outcome as its parameter: of a condition on a task's named output KFP's
    local runner knows nothing, and takes it for false.
    """

    def untaint_drop(
        store_root: str,
        run_id: str,
        name: str,
        outcome: str,
        dataset: str,
        claim_uri: str,
        claim_sha256: str,
        train_limit: int,
        model: str,
        seed: int,
        warmup_epochs: int,
        finetune_epochs: int,
        control_epochs: int,
        ingest_settings: dict[str, Any],
        warmup_settings: dict[str, Any],
        control_settings: dict[str, Any],
        split_settings: dict[str, Any],
        unlearn_settings: dict[str, Any],
        finetune_settings: dict[str, Any],
        evaluate_settings: dict[str, Any],
        promote_settings: dict[str, Any],
    ) -> None:
        """Trains on the claimed drop, if there is one, and asks the gates."""
        with dsl.If(outcome == CLAIMED, name="a drop was claimed"):
            trained = training(
                store_root=store_root,
                run_id=run_id,
                dataset=dataset,
                train_limit=train_limit,
                attack="none",
                poison_rate=0.0,
                target_label=0,
                model=model,
                seed=seed,
                warmup_epochs=warmup_epochs,
                finetune_epochs=finetune_epochs,
                control_epochs=control_epochs,
                ingest_settings=ingest_settings,
                warmup_settings=warmup_settings,
                control_settings=control_settings,
                split_settings=split_settings,
                unlearn_settings=unlearn_settings,
                finetune_settings=finetune_settings,
                evaluate_settings=evaluate_settings,
            )
            trained.set_display_name("train")
            promote = promote_component(
                store_root=store_root,
                run_id=run_id,
                name=name,
                claim_uri=claim_uri,
                claim_sha256=claim_sha256,
                settings=promote_settings,
            )
            settle(promote, "promote")
            # It reads the results of this very run from the store, so there is no output to wait for.
            promote.after(trained)

    return dsl.pipeline(name="untaint-drop")(untaint_drop)


def compile_pipeline(
    path: Path | str,
    registry: str = "untaint",
    tag: str = "dev",
    profile: Profile | None = None,
    *,
    control: bool = False,
) -> None:
    """Writes the pipeline as the YAML that a Kubeflow Pipelines server takes.

    Args:
        path: The file to write; its name ends in ``.yaml``.
        registry: Registry and path of the images.
        tag: Tag of the images.
        profile: What a cluster grants each stage.
        control: Whether the undefended model is trained for comparison.
    """
    compiler.Compiler().compile(build(registry, tag, profile, control=control), str(path))
