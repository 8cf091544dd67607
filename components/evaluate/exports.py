"""The final model as files to take away, published with the evaluation, since only then the verdict is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.common.classifier import Provenance
    from components.common.runs.inputs import Rows
    from components.common.runs.lifecycle import Published, StageRun

__all__ = ["add_model_files", "with_files"]

logger = logging.getLogger(__name__)


def add_model_files(
    run: StageRun, formats: str, holdout: Rows, facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, str]:
    """Keeps the final model for publishing.

    Args:
        formats: As ``EvaluateConfig.formats``.
        run: The evaluate stage, with the parents ``ingest`` and ``finetune``, and ``truth`` if there is one.
        holdout: The holdout's rows.
        facts: What evaluate found: ``verdict``, ``reason``, ``checked`` and ``acc_measured_on``, and ``canary`` if one
            was planted.
        metrics: What it measured: ``acc`` and ``suspects``, and ``asr`` if an attack was injected.

    Returns:
        Formats that are left out, with the reason.
    """
    from components.common.classifier import Classifier
    from components.common.exporters import EXPORTERS, export, formats_of
    from components.common.runs.inputs import read_model

    channels, height, width = holdout.images.shape[1:]
    model, architecture = read_model(run, "finetune", "model")
    classifier = Classifier(
        module=model,
        architecture=architecture,
        spec=holdout.spec,
        image_shape=(channels, height, width),
        class_names=tuple(holdout.class_names),
        provenance=_provenance(run, holdout, facts, metrics),
    )
    left_out, wanted = {}, {*formats_of(formats), "safetensors"}
    for name in EXPORTERS:
        if name not in wanted:
            left_out[name] = "not among evaluate.formats"
        elif EXPORTERS[name].missing:
            left_out[name] = f"not installed: {', '.join(EXPORTERS[name].missing)}"
    for name, reason in left_out.items():
        logger.info("the model is not published as %s; %s", name, reason)
    files = {part: file for name in EXPORTERS for part, file in EXPORTERS[name].files.items()}
    for part, data in export(classifier, [name for name in EXPORTERS if name not in left_out]).items():
        suffix = f".{files[part].rpartition('.')[2]}"
        run.add_bytes(part, data, suffix=suffix, kind="model")
    return left_out


def with_files(run: StageRun, published: Published) -> Published:
    """The result with what the run graph shows of it: the report, and the model as it is used.

    Raises:
        ContractError: A published object is damaged.
        StorageError: The store cannot serve.
    """
    from components.evaluate.page import read_views

    objects = published.manifest.objects
    ref = published.manifest.object("model_pt2" if "model_pt2" in objects else "model_safetensors", published.uri)
    model = {"model": run.store.get(ref.uri, ref.sha256)}
    return replace(published, files={**read_views(run, published), **model})


def _provenance(run: StageRun, holdout: Rows, facts: Mapping[str, Any], metrics: Mapping[str, float]) -> Provenance:
    from components.common.classifier import Provenance, dataset_digest, dataset_name
    from components.common.contracts.versions import versions
    from components.common.tables.tables import SAMPLE_INDEX

    ingest = run.parents["ingest"]
    n_train = int(ingest.manifest.facts["n_train"])
    index = run.read_table("ingest", "sample_index", SAMPLE_INDEX)
    pixels = ingest.manifest.object("pixels", ingest.uri)
    truth = run.parents["truth"].manifest.facts if "truth" in run.parents else {}
    attack = truth.get("attack") or {}
    return Provenance(
        run_id=run.run_id,
        dataset=dataset_name(str(ingest.manifest.config["dataset"])),
        dataset_digest=dataset_digest(pixels.sha256, index["given_label"].to_numpy(), n_train, holdout.class_names),
        train_samples=n_train,
        holdout_samples=len(holdout.labels),
        seed=int(ingest.manifest.config["seed"]),
        verdict=str(facts["verdict"]),
        reason=str(facts.get("reason") or ""),
        suspects=int(metrics["suspects"]),
        checked=str(facts.get("checked") or ""),
        acc=metrics["acc"],
        acc_measured_on=str(facts.get("acc_measured_on") or ""),
        attack=f"{attack['name']} on {attack['poison_rate']:.2%} of the training images" if attack else "",
        asr=metrics.get("asr"),
        canary=facts.get("canary", {}),
        versions=versions(),
    )
