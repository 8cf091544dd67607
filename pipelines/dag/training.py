"""The training pipeline as a DAG factory, from what the stages declare: each task behind its parents."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.common.contracts.errors import ConfigError
from components.common.contracts.spec import StageSpec
from components.container import component_of
from pipelines.dag.parameters import INJECTED, RUN, TRAINING, declared
from pipelines.dag.placement import pipeline_config, place
from pipelines.dag.profiles import Profile
from pipelines.dag.stages import TRAINING as TASKS
from pipelines.dag.stages import folders_of

__all__ = ["PIPELINE_NAME", "add_task", "build", "compile_pipeline", "image_of"]

PIPELINE_NAME = "untaint-training"

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


def add_task(component: Any, spec: StageSpec, given: Mapping[str, Any], handed: dict[str, Any], *, role: bool) -> Any:
    """Adds a task to the pipeline at work: its settings come from the parameters, its parents from earlier tasks.

    Args:
        component: The component of the task's folder.
        spec: The task.
        given: The pipeline's parameters by name.
        handed: What earlier tasks handed on, by the name of the input; what this one hands on is added.
        role: Whether the component has several tasks and is to be told which.
    """
    arguments = {name: given[name] for name in ("store_root", "run_id")}
    arguments |= {setting: given[name] for setting, name in spec.inputs.items()}
    arguments["settings"] = given[f"{spec.name}_settings"]
    if role:
        arguments["role"] = spec.name
    for parent in spec.parents:
        arguments |= {name: handed.get(name, "") for name in (f"{parent}_uri", f"{parent}_sha256")}
    if spec.after:
        arguments[f"{spec.after}_lineage"] = handed[f"{spec.after}_lineage"]
    task = component(**arguments)
    handed[f"{spec.name}_lineage"] = task.outputs["lineage"]
    handed |= {f"{spec.name}_uri": task.outputs["manifest_uri"], f"{spec.name}_sha256": task.outputs["manifest_sha256"]}
    handed |= {output.name: task.outputs[output.name] for output in spec.outputs if output.kind == "text"}
    task.set_display_name(spec.name)
    return task


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
    folders = folders_of(TASKS)
    components = {name: component_of(image_of(name, registry, tag), *specs) for name, specs in folders.items()}

    @declared((*RUN, *INJECTED, *TRAINING), "Trains a clean image classifier from a dataset that may be poisoned.")
    def untaint_training(given: dict[str, Any]) -> None:
        handed: dict[str, Any] = {}
        for spec in TASKS:
            if spec.optional and not control:
                continue
            task = add_task(components[spec.folder], spec, given, handed, role=len(folders[spec.folder]) > 1)
            if profile is not None:
                place(task, spec.name, profile, tag)

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
