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

from components.common.retraining.records import CLAIMED
from components.container import component_of
from components.ingest.config import CANARY_RATIO
from pipelines.dag.parameters import INJECTED, RUN, TRAINING, Parameter, declared, defaults_of, parameters_of
from pipelines.dag.placement import pipeline_config, place
from pipelines.dag.profiles import Profile
from pipelines.dag.stages import TASKS
from pipelines.dag.training import add_task, image_of
from pipelines.dag.training import build as build_training

__all__ = ["PIPELINE_NAME", "build", "compile_pipeline", "default_parameters"]

PIPELINE_NAME = "untaint-retrain"

_ASKED = ("name", "drops")
_CLAIM = tuple(one.required() if one.name in _ASKED else one for one in parameters_of([TASKS["claim"]]))
_PROMOTE = tuple(one for one in parameters_of([TASKS["promote"]]) if one.name not in _ASKED)
_CLAIMED = (
    *RUN,
    Parameter(name="name", kind=str, text="Name of the model."),
    Parameter(name="outcome", kind=str, text="How the claim came out."),
    Parameter(name="dataset", kind=str, text="The claimed drop as the name of a dataset."),
    Parameter(name="claim_uri", kind=str, text="Manifest of the claim."),
    Parameter(name="claim_sha256", kind=str, text="Hex sha256 of that manifest."),
)


def default_parameters() -> dict[str, Any]:
    """The pipeline's parameters without ``store_root``, ``run_id``, ``name`` and ``drops``, with their defaults."""
    return {**defaults_of((*_CLAIM, *TRAINING, *_PROMOTE)), "ingest_settings": {"canary_ratio": CANARY_RATIO}}


def build(registry: str = "untaint", tag: str = "dev", profile: Profile | None = None, *, control: bool = False) -> Any:
    """The retraining pipeline for one set of images.

    Args:
        registry: Registry and path of the images, without a slash at its end; may be empty.
        tag: Tag of the images.
        profile: What a cluster grants each stage of the training; None for a plain pipeline, as local runs take it,
            which has ``run_id`` as a parameter. On a cluster a run has the id that KFP gives it.
        control: Whether the undefended model is trained for comparison.

    Returns:
        The pipeline.
    """
    light = {
        name: component_of(image_of(TASKS[name].image, registry, tag), TASKS[name]) for name in ("claim", "promote")
    }

    def settle(task: Any, name: str) -> None:
        # What they find in the store changes while their parameters stay: a cached answer would be a stale one.
        task.set_caching_options(False)
        if profile is not None:
            place(task, name, profile, tag)

    follow_up = _follow_up(build_training(registry, tag, profile, control=control), light["promote"], settle)
    # Of a condition on a task's named output KFP's local runner knows nothing, and takes it for false: there it is put
    # into a pipeline of its own, whose parameter the outcome is. On a cluster such a pipeline would be RUNNING for ever
    # in the UI when it is not entered, for nothing inside it would say that it has ended.
    follow = follow_up if profile is not None else _wrapped(follow_up)

    run = RUN if profile is None else [one for one in RUN if one.name != "run_id"]

    @declared(
        (*run, *_CLAIM, *TRAINING, *_PROMOTE),
        "Trains on the oldest drop that nobody has trained, and makes the model the champion if the gates hold.",
    )
    def untaint_retrain(given: dict[str, Any]) -> None:
        # As a whole argument: a placeholder inside a text is not replaced.
        identified = {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER, **given}
        handed: dict[str, Any] = {}
        settle(add_task(light["claim"], TASKS["claim"], identified, handed, role=False), "claim")
        follow(
            **{name: given[name] for name in ("store_root", "name")},
            run_id=handed["data_run_id"],
            **{name: handed[name] for name in ("outcome", "dataset", "claim_uri", "claim_sha256")},
            **{one.name: given[one.name] for one in (*TRAINING, *_PROMOTE)},
        )

    config = pipeline_config(profile) if profile is not None else None
    return dsl.pipeline(name=PIPELINE_NAME, pipeline_config=config)(untaint_retrain)


def _follow_up(training: Any, promote_component: Any, settle: Callable[[Any, str], None]) -> Callable[..., None]:
    """The part that needs a drop: it trains on the claimed one, if there is one, and asks the gates."""
    # The data are the drop's, and nobody attacks them.
    plain = {**{one.name: one.kind() for one in INJECTED}, "attack": "none"}

    def follow_up(**given: Any) -> None:
        with dsl.If(given["outcome"] == CLAIMED, name="a drop was claimed"):
            trained = training(
                **{**plain, **{name: given[name] for name in ("store_root", "run_id", "dataset")}},
                **{one.name: given[one.name] for one in TRAINING},
            )
            trained.set_display_name("train")
            promote = add_task(promote_component, TASKS["promote"], given, dict(given), role=False)
            settle(promote, "promote")
            # It reads the results of this very run from the store, so there is no output to wait for.
            promote.after(trained)

    return follow_up


def _wrapped(follow_up: Callable[..., None]) -> Callable[..., None]:
    """The same as a pipeline of its own."""
    parameters = (*_CLAIMED, *TRAINING, *_PROMOTE)

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
