"""The retraining pipeline: claim a drop, train on it if there is one, and move the champion if the gates hold.

The training is the pipeline of ``training.py`` as it is, behind a condition: without a new drop nothing is started that
asks for a GPU or much memory. The run's id comes out of the claim, for the scheduler of Kubeflow Pipelines 2.17 fills
no macro into the parameters of a compiled pipeline: the one thing by which a scheduled run knows itself is a
placeholder in place of a whole argument.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.claim.component import build as claim_component
from components.common.contracts.configs import ClaimConfig
from components.common.retraining.records import CLAIMED
from components.promote.component import build as promote_component
from pipelines.dag.parameters import RUN, TRAINING, Parameter, declared, defaults_of, settings_of
from pipelines.dag.placement import pipeline_config, place
from pipelines.dag.profiles import Profile
from pipelines.dag.training import build as build_training
from pipelines.dag.training import image_of

__all__ = ["CANARY_RATIO", "LIGHT_IMAGE", "PIPELINE_NAME", "build", "compile_pipeline", "default_parameters"]

PIPELINE_NAME = "untaint-retrain"
LIGHT_IMAGE = "split"
"""The stage whose image holds the claim and promote steps too: the smallest one, without PyTorch."""
CANARY_RATIO = 0.02
"""Share of the training set that carries a planted trigger, unless the user says otherwise; 0 plants none."""

_BOUND = "date of the drops to take, YYYY-MM-DD{}; empty for no bound."
_STORE = RUN[0]
_NAME = Parameter(name="name", kind=str, text="Name of the model.")
_GIVEN_RUN = Parameter(
    name="run_id",
    kind=str,
    text="Identifier of the run; empty for the one that Kubeflow Pipelines gives it.",
    default="",
)
_PLAN = Parameter(
    name="plan",
    kind=str,
    text="Digest of what is done with a drop. A run that takes one over from a dead one resumes from its data if both "
    "have the same; empty for a run that resumes from no other's.",
    default="",
)
_CLAIM = (
    Parameter(name="drops", kind=str, text="``s3://bucket/prefix`` with one folder per drop."),
    Parameter(name="since", kind=str, text="First " + _BOUND.format(""), default=ClaimConfig().since),
    Parameter(name="until", kind=str, text="Last " + _BOUND.format(", inclusive"), default=ClaimConfig().until),
    settings_of("claim", "Further settings of the claim by name."),
)
_CLAIMED = (
    RUN[1],
    Parameter(name="outcome", kind=str, text="How the claim came out."),
    Parameter(name="dataset", kind=str, text="The claimed drop as the name of a dataset."),
    Parameter(name="claim_uri", kind=str, text="Manifest of the claim."),
    Parameter(name="claim_sha256", kind=str, text="Hex sha256 of that manifest."),
)
_PROMOTE = (settings_of("promote", "Limits of the gates by name."),)
_LIGHT: dict[str, Callable[[str], Any]] = {"claim": claim_component, "promote": promote_component}


def default_parameters() -> dict[str, Any]:
    """The pipeline's parameters without ``store_root``, ``run_id``, ``name`` and ``drops``, with their defaults.

    With ``run_id`` left out too, each run has an id of its own; ``plan`` may be left out as well.
    """
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
    light = {name: make(image_of(LIGHT_IMAGE, registry, tag)) for name, make in _LIGHT.items()}

    def settle(task: Any, name: str) -> None:
        task.set_display_name(name)
        # What they find in the store changes while their parameters stay: a cached answer would be a stale one.
        task.set_caching_options(False)
        if profile is not None:
            place(task, name, profile, tag)

    follow_up = _follow_up(build_training(registry, tag, profile, control=control), light["promote"], settle)
    # Of a condition on a task's named output KFP's local runner knows nothing, and takes it for false: there it is put
    # into a pipeline of its own, whose parameter the outcome is. On a cluster such a pipeline would be RUNNING for ever
    # in the UI when it is not entered, for nothing inside it would say that it has ended.
    follow = follow_up if profile is not None else _wrapped(follow_up)

    @declared(
        (_STORE, _GIVEN_RUN, _PLAN, _NAME, *_CLAIM, *TRAINING, *_PROMOTE),
        "Trains on the oldest drop that nobody has trained, and makes the model the champion if the gates hold.",
    )
    def untaint_retrain(given: dict[str, Any]) -> None:
        claim = light["claim"](
            **{name: given[name] for name in ("store_root", "name", "drops", "since", "until")},
            given_run_id=given["run_id"],
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            plan=given["plan"],
            settings=given["claim_settings"],
        )
        settle(claim, "claim")
        follow(
            store_root=given["store_root"],
            name=given["name"],
            run_id=claim.outputs["run_id"],
            outcome=claim.outputs["outcome"],
            dataset=claim.outputs["dataset"],
            claim_uri=claim.outputs["manifest_uri"],
            claim_sha256=claim.outputs["manifest_sha256"],
            **{one.name: given[one.name] for one in (*TRAINING, *_PROMOTE)},
        )

    config = pipeline_config(profile) if profile is not None else None
    return dsl.pipeline(name=PIPELINE_NAME, pipeline_config=config)(untaint_retrain)


def _follow_up(training: Any, promote_component: Any, settle: Callable[[Any, str], None]) -> Callable[..., None]:
    """The part that needs a drop: it trains on the claimed one, if there is one, and asks the gates."""

    def follow_up(**given: Any) -> None:
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

    return follow_up


def _wrapped(follow_up: Callable[..., None]) -> Callable[..., None]:
    """The same as a pipeline of its own."""
    parameters = (_STORE, _NAME, *_CLAIMED, *TRAINING, *_PROMOTE)

    @declared(
        [one.required() for one in parameters], "Trains on the claimed drop, if there is one, and asks the gates."
    )
    def untaint_drop(given: dict[str, Any]) -> None:
        follow_up(**given)

    drop = dsl.pipeline(name="untaint-drop")(untaint_drop)

    def follow(**given: Any) -> None:
        drop(**given).set_display_name("drop")

    return follow


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
