"""The retraining pipeline: claim a drop, train on it if there is one, and move the champion if the gates hold.

The training is the pipeline of ``training.py`` as it is, behind a condition: without a new drop nothing is started that
asks for a GPU or much memory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.claim.component import build as claim_component
from components.common.contracts.configs import CANARY_RATIO, ClaimConfig
from components.common.retraining.records import CLAIMED
from components.promote.component import build as promote_component
from pipelines.dag.parameters import RUN, TRAINING, Parameter, declared, defaults_of, settings_of
from pipelines.dag.placement import pipeline_config, place
from pipelines.dag.profiles import Profile
from pipelines.dag.training import build as build_training
from pipelines.dag.training import image_of

__all__ = ["IMAGES", "PIPELINE_NAME", "build", "compile_pipeline", "default_parameters"]

PIPELINE_NAME = "untaint-retrain"
IMAGES = {"claim": "split", "promote": "evaluate"}
"""The stages whose images hold the steps: the smallest one, without PyTorch, and the one that measures models."""

_BOUND = "date of the drops to take, YYYY-MM-DD{}; empty for no bound."
_RUN = (
    RUN[0],
    Parameter(
        name="run_id",
        kind=str,
        text="Identifier of the run. A schedule fills in ``[[ScheduledTime]]``, so that no two runs share it.",
    ),
    Parameter(name="name", kind=str, text="Name of the model."),
)
_CLAIM = (
    Parameter(name="drops", kind=str, text="``s3://bucket/prefix`` with one folder per drop."),
    Parameter(name="since", kind=str, text="First " + _BOUND.format(""), default=ClaimConfig().since),
    Parameter(name="until", kind=str, text="Last " + _BOUND.format(", inclusive"), default=ClaimConfig().until),
    settings_of("claim", "Further settings of the claim by name."),
)
_CLAIMED = (
    Parameter(name="outcome", kind=str, text="How the claim came out."),
    Parameter(name="dataset", kind=str, text="The claimed drop as the name of a dataset."),
    Parameter(name="claim_uri", kind=str, text="Manifest of the claim."),
    Parameter(name="claim_sha256", kind=str, text="Hex sha256 of that manifest."),
)
_PROMOTE = (settings_of("promote", "Limits of the gates by name."),)
_LIGHT: dict[str, Callable[[str], Any]] = {"claim": claim_component, "promote": promote_component}


def default_parameters() -> dict[str, Any]:
    """The pipeline's parameters without ``store_root``, ``run_id``, ``name`` and ``drops``, with their defaults."""
    return {**defaults_of((*_CLAIM, *TRAINING, *_PROMOTE)), "ingest_settings": {"canary_ratio": CANARY_RATIO}}


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
    light = {name: make(image_of(IMAGES[name], registry, tag)) for name, make in _LIGHT.items()}

    def settle(task: Any, name: str) -> None:
        task.set_display_name(name)
        # What they find in the store changes while their parameters stay: a cached answer would be a stale one.
        task.set_caching_options(False)
        if profile is not None:
            place(task, name, profile, tag)

    follow_up = _follow_up(build_training(registry, tag, profile, control=control), light["promote"], settle)

    @declared(
        (*_RUN, *_CLAIM, *TRAINING, *_PROMOTE),
        "Trains on the oldest drop that nobody has trained, and makes the model the champion if the gates hold.",
    )
    def untaint_retrain(given: dict[str, Any]) -> None:
        run = {name: given[name] for name in ("store_root", "run_id", "name")}
        claim = light["claim"](
            **run, **{name: given[name] for name in ("drops", "since", "until")}, settings=given["claim_settings"]
        )
        settle(claim, "claim")
        drop = follow_up(
            **run,
            outcome=claim.outputs["outcome"],
            dataset=claim.outputs["dataset"],
            claim_uri=claim.outputs["manifest_uri"],
            claim_sha256=claim.outputs["manifest_sha256"],
            **{one.name: given[one.name] for one in (*TRAINING, *_PROMOTE)},
        )
        drop.set_display_name("drop")

    config = pipeline_config(profile) if profile is not None else None
    return dsl.pipeline(name=PIPELINE_NAME, pipeline_config=config)(untaint_retrain)


def _follow_up(training: Any, promote_component: Any, settle: Callable[[Any, str], None]) -> Any:
    """The part that needs a drop.

    A pipeline of its own, with the claim's outcome as its parameter: of a condition on a task's named output KFP's
    local runner knows nothing, and takes it for false.
    """
    parameters = (*_RUN, *_CLAIMED, *TRAINING, *_PROMOTE)

    @declared(
        [one.required() for one in parameters], "Trains on the claimed drop, if there is one, and asks the gates."
    )
    def untaint_drop(given: dict[str, Any]) -> None:
        run = {name: given[name] for name in ("store_root", "run_id")}
        with dsl.If(given["outcome"] == CLAIMED, name="a drop was claimed"):
            trained = training(
                **run,
                dataset=given["dataset"],
                attack="none",
                poison_rate=0.0,
                target_label=0,
                **{one.name: given[one.name] for one in TRAINING},
            )
            trained.set_display_name("train")
            promote = promote_component(
                **run,
                **{name: given[name] for name in ("name", "claim_uri", "claim_sha256")},
                settings=given["promote_settings"],
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
