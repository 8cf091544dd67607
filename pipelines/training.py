"""The training pipeline as a DAG factory: six stages, and the undefended model beside them for comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.common.contracts.configs import FinetuneConfig, IngestConfig, WarmupConfig
from components.evaluate.component import build as evaluate_component
from components.finetune.component import build as finetune_component
from components.ingest.component import build as ingest_component
from components.split.component import build as split_component
from components.unlearn.component import build as unlearn_component
from components.warmup.component import build as warmup_component
from pipelines.placement import pipeline_config, place
from pipelines.profiles import Profile

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

_INGEST = IngestConfig()
_WARMUP = WarmupConfig()
_FINETUNE = FinetuneConfig()


def image_of(stage: str, registry: str, tag: str) -> str:
    """The image reference of a stage.

    Args:
        stage: Stage name.
        registry: Registry and path, ``host/path``; empty for an image that this machine has.
        tag: Image tag.
    """
    name = f"untaint-{stage}:{tag}"
    return f"{registry.rstrip('/')}/{name}" if registry else name


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

    # The defaults below are KFP's interface; their values come from the configs, where alone a default stands.
    # KFP reads annotations at run time, and a dict default is only written into the YAML, never shared.
    def untaint_training(
        store_root: str,
        run_id: str,
        dataset: str = _INGEST.dataset,
        train_limit: int = _INGEST.train_limit,
        attack: str = _INGEST.attack,
        poison_rate: float = _INGEST.poison_rate,
        target_label: int = _INGEST.target_label,
        model: str = _WARMUP.model,
        seed: int = _INGEST.seed,
        warmup_epochs: int = _WARMUP.epochs,
        finetune_epochs: int = _FINETUNE.epochs,
        control_epochs: int = _WARMUP.epochs + _FINETUNE.epochs,
        ingest_settings: dict[str, Any] = {},  # noqa: B006
        warmup_settings: dict[str, Any] = {},  # noqa: B006
        control_settings: dict[str, Any] = {},  # noqa: B006
        split_settings: dict[str, Any] = {},  # noqa: B006
        unlearn_settings: dict[str, Any] = {},  # noqa: B006
        finetune_settings: dict[str, Any] = {},  # noqa: B006
        evaluate_settings: dict[str, Any] = {},  # noqa: B006
    ) -> None:
        """Trains a clean image classifier from a dataset that may be poisoned.

        Args:
            store_root: ``s3://bucket/prefix`` of the run data.
            run_id: Identifier of the run; an unfinished run of the same id is continued.
            dataset: Name of the dataset: ``mnist5k``, ``cifar10`` or ``parquet:<folder or s3 prefix>``.
            train_limit: Training samples to take, stratified; 0 for all.
            attack: Attack to inject, or ``none`` to take the data as they are.
            poison_rate: Poisoned share of the training set, in [0, 1].
            target_label: Class that triggered images are to be taken for.
            model: Name of the model.
            seed: Seed of everything random.
            warmup_epochs: Passes of the warm-up over the training set.
            finetune_epochs: Passes of the fine-tuning over the training set.
            control_epochs: Passes of the undefended model, usually those of warm-up and fine-tuning together.
            ingest_settings: Further settings of ingest by name.
            warmup_settings: Further settings of warmup by name.
            control_settings: Further settings of the undefended model's training by name.
            split_settings: Further settings of split by name.
            unlearn_settings: Further settings of unlearn by name.
            finetune_settings: Further settings of finetune by name.
            evaluate_settings: Further settings of evaluate by name.
        """
        run = {"store_root": store_root, "run_id": run_id}
        ingest = component["ingest"](
            **run,
            dataset=dataset,
            train_limit=train_limit,
            attack=attack,
            poison_rate=poison_rate,
            target_label=target_label,
            seed=seed,
            settings=ingest_settings,
        )
        settle(ingest, "ingest")
        base = {**run, "seed": seed, **_handed_on("ingest", ingest)}
        warmup = component["warmup"](**base, role="warmup", model=model, epochs=warmup_epochs, settings=warmup_settings)
        settle(warmup, "warmup")
        undefended = {"control_uri": "", "control_sha256": ""}
        if control:
            rival = component["warmup"](
                **base, role="control", model=model, epochs=control_epochs, settings=control_settings
            )
            settle(rival, "control")
            undefended = _handed_on("control", rival)
        warmed = {**base, **_handed_on("warmup", warmup)}
        split = component["split"](**warmed, settings=split_settings)
        settle(split, "split")
        unlearn = component["unlearn"](**warmed, **_handed_on("split", split), settings=unlearn_settings)
        settle(unlearn, "unlearn")
        finetune = component["finetune"](
            **base, **_handed_on("unlearn", unlearn), epochs=finetune_epochs, settings=finetune_settings
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
            settings=evaluate_settings,
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
