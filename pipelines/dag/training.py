"""The training pipeline as a DAG factory: six stages, and the undefended model beside them for comparison."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.common.contracts.errors import ConfigError
from components.evaluate.component import build as evaluate_component
from components.finetune.component import build as finetune_component
from components.ingest.component import build as ingest_component
from components.split.component import build as split_component
from components.unlearn.component import build as unlearn_component
from components.warmup.component import build as warmup_component
from pipelines.dag.parameters import INJECTED, RUN, TRAINING, declared
from pipelines.dag.placement import pipeline_config, place
from pipelines.dag.profiles import Profile

__all__ = ["PIPELINE_NAME", "STAGES", "build", "compile_pipeline", "component_of", "image_of"]

PIPELINE_NAME = "untaint-training"

_BUILDERS: dict[str, Callable[[str], Any]] = {
    "ingest": ingest_component,
    "warmup": warmup_component,
    "split": split_component,
    "unlearn": unlearn_component,
    "finetune": finetune_component,
    "evaluate": evaluate_component,
}
STAGES = tuple(_BUILDERS)
"""The stages that have an image, in the order of the data."""
# A port follows the host alone, and only the host may have capitals.
_REGISTRY = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?:[0-9]{1,5}"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def image_of(stage: str, registry: str, tag: str) -> str:
    """The image reference of a stage.

    Args:
        stage: Stage name.
        registry: Registry and path, ``host/path``; empty for an image that this machine has.
        tag: Image tag.

    Raises:
        ConfigError: No container engine would take such a registry or tag; a pod would wait for the image without end.
    """
    path = registry.rstrip("/")
    if registry and not _REGISTRY.fullmatch(path):
        raise ConfigError(
            "the registry of the images",
            expected="host/path or host:port/path, the path of a-z 0-9 . _ - and /, without a scheme",
            # Before an @ stands a password, if anything does.
            found="a user or password in it" if "@" in registry else f"'{registry[:80]}'",
            hint="Write it as in `docker push`, such as ghcr.io/me; log in with `docker login`.",
        )
    if not _TAG.fullmatch(tag):
        raise ConfigError(
            "the tag of the images",
            expected="up to 128 of A-Z a-z 0-9 _ . and -, not starting with . or -",
            found=f"'{tag[:80]}'",
            hint="Take the one that `untaint images tag` prints.",
        )
    name = f"untaint-{stage}:{tag}"
    return f"{path}/{name}" if registry else name


def component_of(stage: str, image: str) -> Any:
    """The KFP component of a stage.

    Args:
        stage: Stage name.
        image: Full image reference.
    """
    return _BUILDERS[stage](image)


def build(registry: str = "untaint", tag: str = "dev", profile: Profile | None = None, *, control: bool = True) -> Any:
    """The training pipeline for one set of images.

    Args:
        registry: Registry and path of the images, without a slash at its end; may be empty.
        tag: Tag of the images. KFP's cache does not see the code, so the tag must change with it.
        profile: What a cluster grants each stage; None for a plain pipeline, as local runs take it.
        control: Whether the undefended model is trained for comparison. Decided here and not by a condition in the
            DAG: a DAG without conditions stops at the first stage that does, locally too.

    Returns:
        The pipeline; ``compile_pipeline`` writes it to a file, and calling it under ``kfp.local`` runs it.
    """
    component = {stage: make(image_of(stage, registry, tag)) for stage, make in _BUILDERS.items()}

    def settle(task: Any, name: str) -> None:
        task.set_display_name(name)
        if profile is not None:
            place(task, name, profile, tag)

    @declared((*RUN, *INJECTED, *TRAINING), "Trains a clean image classifier from a dataset that may be poisoned.")
    def untaint_training(given: dict[str, Any]) -> None:
        run = {name: given[name] for name in ("store_root", "run_id")}
        data = {one.name: given[one.name] for one in INJECTED}
        seed, model = given["seed"], given["model"]
        ingest = component["ingest"](
            **run, **data, train_limit=given["train_limit"], seed=seed, settings=given["ingest_settings"]
        )
        settle(ingest, "ingest")
        base = {**run, "seed": seed, **_handed_on("ingest", ingest)}
        warmup = component["warmup"](
            **base, role="warmup", model=model, epochs=given["warmup_epochs"], settings=given["warmup_settings"]
        )
        settle(warmup, "warmup")
        undefended = {"control_uri": "", "control_sha256": ""}
        if control:
            rival = component["warmup"](
                **base, role="control", model=model, epochs=given["control_epochs"], settings=given["control_settings"]
            )
            settle(rival, "control")
            undefended = _handed_on("control", rival)
        warmed = {**base, **_handed_on("warmup", warmup)}
        split = component["split"](**warmed, settings=given["split_settings"])
        settle(split, "split")
        unlearn = component["unlearn"](**warmed, **_handed_on("split", split), settings=given["unlearn_settings"])
        settle(unlearn, "unlearn")
        finetune = component["finetune"](
            **base,
            **_handed_on("unlearn", unlearn),
            epochs=given["finetune_epochs"],
            settings=given["finetune_settings"],
        )
        settle(finetune, "finetune")
        evaluate = component["evaluate"](
            **run,
            **_handed_on("ingest", ingest),
            truth_uri=ingest.outputs["truth_uri"],
            truth_sha256=ingest.outputs["truth_sha256"],
            **_handed_on("warmup", warmup),
            **_handed_on("split", split),
            **_handed_on("unlearn", unlearn),
            **_handed_on("finetune", finetune),
            **undefended,
            settings=given["evaluate_settings"],
        )
        settle(evaluate, "evaluate")

    config = pipeline_config(profile) if profile is not None else None
    return dsl.pipeline(name=PIPELINE_NAME, pipeline_config=config)(untaint_training)


def compile_pipeline(
    path: Path | str,
    registry: str = "untaint",
    tag: str = "dev",
    profile: Profile | None = None,
    *,
    control: bool = True,
) -> None:
    """Writes the pipeline as the YAML that a Kubeflow Pipelines server takes.

    Args:
        path: The file to write; its name ends in ``.yaml``.
        registry: Registry and path of the images.
        tag: Tag of the images.
        profile: What a cluster grants each stage; with one, the file has a second document for Kubernetes.
        control: Whether the undefended model is trained for comparison.
    """
    compiler.Compiler().compile(build(registry, tag, profile, control=control), str(path))


def _handed_on(stage: str, task: Any) -> dict[str, Any]:
    """The two inputs with which a stage refers to an earlier one: its manifest's address and digest."""
    return {f"{stage}_uri": task.outputs["manifest_uri"], f"{stage}_sha256": task.outputs["manifest_sha256"]}
