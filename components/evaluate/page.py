"""From a finished split and its models to ``summary.json`` and the report: the one call that the stage makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.runs.lifecycle import Published, StageRun
from components.common.storage.addresses import join
from components.evaluate import charts
from components.evaluate.figures import confusion_matrix, dominating, least_suspect, most_suspect, roc_curve
from components.evaluate.gallery import Difference, difference, pictures
from components.evaluate.graph_views import confusion_metadata, overview, roc_metadata
from components.evaluate.provenance import command, config_digest, settings, versions
from components.evaluate.report import MODELS, Card, Figure, Report, Time, render
from components.evaluate.summary import ARTIFACTS, ordinary_seconds, summarise, to_json
from components.evaluate.wording import Found, candidates_of, caveats, colour, detectors, next_steps, sentence

__all__ = ["VIEWS", "Judged", "add_views", "post_summary", "read_views"]

VIEWS = {"report": ".html", "overview": ".md", "confusion": ".json", "roc": ".json"}
"""What the run graph shows of the stage, by the name of the output, and the suffix of the object."""
_CLEAN = 12
# Means of thousands of images say no more than those of hundreds, and that of a few is only what they show.
_MEAN_OF, _FEWEST_MEAN = 2_000, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What the stage knows when all is measured.

    Attributes:
        split: The split table of the n training rows, canaries called clean.
        labels: int64 [n], their given labels.
        keys: Where each of the n images is, relative to the drop where there is one.
        images: uint8 [n, c, h, w], the training images.
        predict: From int64 [j] rows to int64 [j], what the final model takes them for.
        poisoned: bool [n], the truth; None where nobody knows.
        canaries: bool [n], rows whose images the run planted.
        holdout_labels: int64 [m], given labels of the holdout rows on which ACC is measured.
        holdout_predicted: int64 [m], what the final model takes each for.
        class_names: Name of class k at position k.
        attack: What was injected; empty without.
    """

    split: pa.Table
    labels: npt.NDArray[np.int64]
    keys: list[str]
    images: npt.NDArray[np.uint8]
    predict: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
    poisoned: npt.NDArray[np.bool_] | None
    canaries: npt.NDArray[np.bool_]
    holdout_labels: npt.NDArray[np.int64]
    holdout_predicted: npt.NDArray[np.int64]
    class_names: list[str]
    attack: Mapping[str, Any]

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """Rows that lost their label, bool [n]."""
        return np.array([assignment != "clean" for assignment in self.split["assignment"].to_pylist()])

    @property
    def carrying(self) -> npt.NDArray[np.bool_]:
        """Rows that are called poisoned, bool [n]."""
        return np.array([assignment == "poisoned" for assignment in self.split["assignment"].to_pylist()])


def add_views(run: StageRun, judged: Judged, facts: dict[str, Any], metrics: Mapping[str, float]) -> dict[str, bytes]:
    """Keeps summary, report and what the run graph shows for publishing; adds to the facts what the terminal says.

    Args:
        run: The stage, with all other results kept.
        judged: What is known.
        facts: The stage's facts; ``sentence``, ``next_steps``, ``caveats``, ``colour`` and ``ordinary`` are added, and
            ``classes`` where nothing said what was found in each class.
        metrics: The stage's metrics.

    Returns:
        The content of the stage's artifacts in the run graph, by the name of the output.
    """
    own = [*facts["stages"], {"stage": "evaluate", "seconds": run.elapsed, "train_seconds": 0.0}]
    facts.setdefault("classes", _classes(judged))
    found = _found(judged, facts)
    facts["sentence"] = sentence(found)
    facts["colour"] = colour(facts["verdict"], facts)
    facts["next_steps"] = next_steps(found, supported=facts["colour"] == "green")
    facts["caveats"] = caveats(facts, attacked=bool(judged.attack), truth=judged.poisoned is not None)
    parents = {name: parent.manifest for name, parent in run.parents.items()}
    summary = summarise(
        run_id=run.run_id,
        facts={**facts, "stages": own},
        metrics=metrics,
        artifacts=_artifacts(run),
        versions=versions(),
        config_digest=config_digest(parents, run.config),
    )
    epochs = {name: int(parents[name].config["epochs"]) for name in ("warmup", "finetune") if name in parents}
    facts["ordinary"] = list(ordinary_seconds(facts["stages"], epochs))
    matrix = confusion_matrix(judged.holdout_labels, judged.holdout_predicted, len(judged.class_names))
    files = {
        "report": render(_report(run, judged, facts, summary)),
        "overview": overview(summary, facts),
        "confusion": confusion_metadata(matrix, judged.class_names),
        "roc": roc_metadata(_roc(judged)),
    }
    for name, data in files.items():
        run.add_bytes(name, data, suffix=VIEWS[name], kind="document")
    # The report shows the summary's figures, so it cannot show its own address.
    summary["artifacts"]["report"] = run.address("report")
    run.add_bytes("summary", to_json(summary), suffix=".json", kind="document")
    return files


def read_views(run: StageRun, published: Published) -> dict[str, bytes]:
    """What ``add_views`` gave, of a result that is there already.

    Args:
        run: The stage.
        published: Its result.

    Raises:
        ContractError: An object is missing or damaged.
    """
    refs = {name: published.manifest.object(name, published.uri) for name in VIEWS}
    return {name: run.store.get(ref.uri, ref.sha256) for name, ref in refs.items()}


def post_summary(run: StageRun, published: Published) -> None:
    """Puts a copy of the summary where the run's id alone leads: ``<store>/runs/<run id>/summary.json``.

    Args:
        run: The stage.
        published: Its result, now or from before.
    """
    ref = published.manifest.object("summary", published.uri)
    run.store.put(join(run.uri.removesuffix("/evaluate"), "summary.json"), run.store.get(ref.uri, ref.sha256))


def _artifacts(run: StageRun) -> dict[str, str]:
    """Where in the store the artifacts are or will be, whichever stage publishes them."""
    found = {}
    for name in ARTIFACTS:
        address = run.address(name)
        for parent in run.parents.values():
            if address is None and name in parent.manifest.objects:
                address = parent.manifest.objects[name].uri
        if address is not None:
            found[name] = address
    return found


def _found(judged: Judged, facts: Mapping[str, Any]) -> Found:
    flagged, carrying = judged.flagged, judged.carrying
    targets = dominating(judged.labels[carrying], most=len(judged.class_names), share=0.05)
    return Found(
        verdict=facts["verdict"],
        total=int((~judged.canaries).sum()),
        poisoned=int(carrying.sum()),
        suspect=int((flagged & ~carrying).sum()),
        targets=[judged.class_names[label] for label in targets],
        mapping=facts["mapping"],
        reason=facts.get("reason") or "",
    )


def _classes(judged: Judged) -> list[dict[str, Any]]:
    """Counts by class, where the facts have none: training images, suspects, holdout images and recall."""
    k = len(judged.class_names)
    train, suspects = (np.bincount(labels, minlength=k) for labels in (judged.labels, judged.labels[judged.flagged]))
    matrix = confusion_matrix(judged.holdout_labels, judged.holdout_predicted, k)
    held = matrix.sum(axis=1)
    return [
        {
            "name": name,
            "train": int(train[label]),
            "suspects": int(suspects[label]),
            "holdout": int(held[label]),
            "recall": round(float(matrix[label, label] / held[label]), 5) if held[label] else None,
        }
        for label, name in enumerate(judged.class_names)
    ]


def _report(run: StageRun, judged: Judged, facts: Mapping[str, Any], summary: Mapping[str, Any]) -> Report:
    flagged = judged.flagged
    parents = {name: parent.manifest for name, parent in run.parents.items()}
    shown = most_suspect(judged.split["suspicion"].to_numpy(), flagged & ~judged.canaries, run.config["shown_suspects"])
    label = dominating(judged.labels[shown], most=1, share=0.0)[0]
    clean = least_suspect(judged.split["suspicion"].to_numpy(), flagged | judged.canaries, judged.labels, label, _CLEAN)
    cards = _cards(judged, np.concatenate([shown, clean]))
    carrying = int(judged.carrying.sum())
    counts = {
        "kept": int((~flagged & ~judged.canaries).sum()),
        "suspect": int(flagged.sum()) - carrying,
        "poisoned": carrying,
    }
    if judged.canaries.any():
        counts["canary, planted by this run"] = int(judged.canaries.sum())
    dataset = str(parents["ingest"].config["dataset"]).removeprefix("drop:")
    height, width = judged.images.shape[2:]
    return Report(
        summary=summary,
        title=f"{dataset} · {len(judged.labels):,} training images of {width} × {height}",  # noqa: RUF001
        colour=facts["colour"],
        sentence=facts["sentence"],
        next_steps=facts["next_steps"],
        caveats=facts["caveats"],
        headline=_headline(summary, judged),
        charts=_charts(run, judged, facts, summary),
        suspects=cards[: len(shown)],
        clean=cards[len(shown) :],
        gallery_class=judged.class_names[label],
        differences=_differences(judged),
        classes=facts["classes"],
        detectors=detectors(candidates_of(facts["probes"]), _signals(run), facts["mixed_classes"], facts["mapping"]),
        probes=candidates_of(facts["probes"]),
        times=_times(facts, summary),
        ordinary=(facts["ordinary"][0], facts["ordinary"][1]),
        counts=counts,
        attack=judged.attack,
        provenance=_provenance(run, summary),
        command=command(parents, run.changed),
        settings={**settings(parents), "evaluate": run.config},
    )


def _signals(run: StageRun) -> list[str]:
    return list(run.parents["split"].manifest.facts["signals"])


def _headline(summary: Mapping[str, Any], judged: Judged) -> list[Figure]:
    final, rival = summary["stages"]["final"], summary["stages"]["undefended"]

    def figure(name: str, key: str) -> Figure:
        other = f"undefended model: {100 * rival[key]:.1f} %" if rival[key] is not None else "no undefended model"
        return Figure(name=name, value=f"{100 * final[key]:.1f} %", note=other)

    acc = figure("ACC of the final model", "acc")
    if final["asr"] is not None:
        return [acc, figure("ASR of the final model", "asr")]
    share = summary["split"]["suspects"] / max(1, len(judged.labels))
    suspects = Figure(
        name="Suspects", value=f"{summary['split']['suspects']:,}", note=f"{100 * share:.1f} % of the training images"
    )
    return [acc, suspects]


def _charts(run: StageRun, judged: Judged, facts: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    suspicion, flagged = judged.split["suspicion"].to_numpy()[~judged.canaries], judged.flagged[~judged.canaries]
    threshold = float(suspicion[flagged].min()) if flagged.any() else None
    k = len(judged.class_names)
    drawn = {
        "stages": charts.stage_chart(
            [(MODELS[model], figures["acc"], figures["asr"]) for model, figures in summary["stages"].items()]
        ),
        "classes": charts.class_chart(
            judged.class_names,
            np.bincount(judged.labels[judged.flagged], minlength=k).tolist(),
            np.bincount(judged.labels, minlength=k).tolist(),
        ),
        "confusion": charts.confusion_chart(
            confusion_matrix(judged.holdout_labels, judged.holdout_predicted, k), judged.class_names
        ),
        "time": charts.time_chart(
            [(one.stage, one.train_seconds, one.seconds - one.train_seconds) for one in _times(facts, summary)],
            facts["ordinary"][0],
        ),
    }
    groups = {"kept": suspicion[~flagged], "suspect": suspicion[flagged]}
    if judged.poisoned is not None:
        poisoned = judged.poisoned[~judged.canaries]
        groups = {"clean": suspicion[~poisoned], "poisoned": suspicion[poisoned]}
        curve = _roc(judged)
        if curve is not None:
            split = summary["split"]
            drawn["roc"] = charts.roc_chart(curve[:2], split["auroc"], (split["fpr"], split["tpr"]))
    drawn["suspicion"] = charts.suspicion_chart(groups, threshold)
    histories = {
        name: run.parents[stage].manifest.facts["history"]
        for stage, name in (
            ("warmup", "warm-up"),
            ("unlearn", "unlearned"),
            ("finetune", "final"),
            ("control", "undefended"),
        )
        if stage in run.parents and run.parents[stage].manifest.facts.get("history")
    }
    if histories:
        drawn["history"] = charts.history_chart(histories)
    return drawn


def _roc(judged: Judged) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """The ROC curve of the suspicion against the truth; None where that is not known."""
    if judged.poisoned is None:
        return None
    own = ~judged.canaries
    return roc_curve(judged.split["suspicion"].to_numpy()[own], judged.poisoned[own])


def _cards(judged: Judged, rows: npt.NDArray[np.int64]) -> list[Card]:
    mine = judged.split.take(pa.array(rows))
    drawn = pictures([judged.images[row] for row in rows])
    return [
        Card(
            sample_id=int(row),
            picture=data,
            label=judged.class_names[judged.labels[row]],
            predicted=judged.class_names[guess],
            suspicion=float(suspicion),
            reasons=reasons,
            key=judged.keys[row],
            flagged=assignment != "clean",
            poisoned=None if judged.poisoned is None else bool(judged.poisoned[row]),
        )
        for row, data, guess, suspicion, reasons, assignment in zip(
            rows,
            drawn,
            judged.predict(rows),
            mine["suspicion"].to_pylist(),
            mine["reasons"].to_pylist(),
            mine["assignment"].to_pylist(),
            strict=True,
        )
    ]


def _differences(judged: Judged) -> list[Difference]:
    flagged, found = judged.flagged, []
    for label in dominating(judged.labels[flagged]):
        of_class = (judged.labels == label) & ~judged.canaries
        suspects, kept = np.flatnonzero(of_class & flagged), np.flatnonzero(of_class & ~flagged)
        if min(len(suspects), len(kept)) >= _FEWEST_MEAN:
            name = judged.class_names[label]
            found.append(difference(name, judged.images[suspects[:_MEAN_OF]], judged.images[kept[:_MEAN_OF]]))
    return found


def _times(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Time]:
    ordinary = facts["ordinary"][0]
    return [
        Time(
            stage=entry["stage"],
            seconds=summary["seconds"][entry["stage"]],
            train_seconds=float(entry["train_seconds"]),
            peak_mib=float(entry["peak_mib"]),
            ratio=summary["seconds"][entry["stage"]] / ordinary if ordinary else None,
        )
        for entry in facts["stages"]
    ]


def _provenance(run: StageRun, summary: Mapping[str, Any]) -> dict[str, str]:
    manifests = {name: parent.manifest for name, parent in run.parents.items()}
    rows = {
        "run": run.run_id,
        "seed": str(manifests["ingest"].config["seed"]),
        "model": str(manifests["finetune"].facts["model"]),
        "device": str(manifests["finetune"].facts["device"]),
        "digest of all settings": summary["config_digest"],
        "digest of the code": manifests["finetune"].code_version,
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    }
    for name, address in summary["artifacts"].items():
        if address is not None:
            rows[name.replace("_", " ")] = address
    for name, parent in run.parents.items():
        rows[f"manifest of {name}"] = f"sha256 {parent.sha256}"
    return rows
