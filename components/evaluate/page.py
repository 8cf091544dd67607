"""From a finished split and its models to ``summary.json`` and the report: the one call that the stage makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.common.contracts.versions import versions
from components.common.runs.lifecycle import Published, StageRun
from components.common.storage.addresses import join
from components.evaluate import charts
from components.evaluate.figures import confusion_matrix, dominating, least_suspect, most_suspect, roc_curve
from components.evaluate.gallery import Difference, difference, pictures
from components.evaluate.graph_views import confusion_metadata, overview, roc_metadata
from components.evaluate.provenance import command, config_digest, settings
from components.evaluate.report import MODELS, Card, Figure, Report, Time, render
from components.evaluate.summary import ARTIFACTS, ordinary_seconds, summarise, to_json
from components.evaluate.wording import Found, candidates_of, caveats, colour, detectors, next_steps, sentence

__all__ = ["VIEWS", "Shown", "add_views", "post_summary", "read_views"]

VIEWS = {"report": ".html", "overview": ".md", "confusion": ".json", "roc": ".json"}
"""What the run graph shows of the stage, by the name of the output, and the suffix of the object."""
_CLEAN = 12
# Means of thousands of images say no more than those of hundreds, and that of a few is only what they show.
_MEAN_OF, _FEWEST_MEAN = 2_000, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
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


def add_views(run: StageRun, shown: Shown, facts: dict[str, Any], metrics: Mapping[str, float]) -> dict[str, bytes]:
    """Keeps summary, report and what the run graph shows for publishing; adds to the facts what the terminal says.

    Args:
        run: The stage, with all other results kept.
        shown: What is known.
        facts: The stage's facts; ``sentence``, ``next_steps``, ``caveats``, ``colour`` and ``ordinary`` are added.
        metrics: The stage's metrics.

    Returns:
        The content of the stage's artifacts in the run graph, by the name of the output.
    """
    own = [*facts["stages"], {"stage": "evaluate", "seconds": run.elapsed, "train_seconds": 0.0}]
    found = _found(shown, facts)
    facts["sentence"] = sentence(found)
    facts["colour"] = colour(facts["verdict"], facts)
    facts["next_steps"] = next_steps(found, supported=facts["colour"] == "green")
    facts["caveats"] = caveats(facts, attacked=bool(shown.attack))
    parents = {name: parent.manifest for name, parent in run.parents.items()}
    summary = summarise(
        run_id=run.run_id,
        facts={**facts, "stages": own},
        metrics=metrics,
        artifacts=_artifacts(run),
        versions=versions(),
        config_digest=config_digest(parents, run.config),
    )
    epochs: dict[str, int] = {
        name: int(parents[name].config["epochs"]) for name in ("warmup", "finetune") if name in parents
    }
    facts["ordinary"] = list(ordinary_seconds(facts["stages"], epochs))
    matrix = confusion_matrix(shown.holdout_labels, shown.holdout_predicted, len(shown.class_names))
    files = {
        "report": render(_report(run, shown, facts, summary)),
        "overview": overview(summary, facts),
        "confusion": confusion_metadata(matrix, shown.class_names),
        "roc": roc_metadata(_roc(shown)),
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


def _found(shown: Shown, facts: Mapping[str, Any]) -> Found:
    flagged, carrying = shown.flagged, shown.carrying
    targets = dominating(shown.labels[carrying], most=len(shown.class_names), share=0.05)
    return Found(
        verdict=facts["verdict"],
        total=int((~shown.canaries).sum()),
        poisoned=int(carrying.sum()),
        suspect=int((flagged & ~carrying).sum()),
        targets=[shown.class_names[label] for label in targets],
        mapping=facts["mapping"],
        reason=facts.get("reason") or "",
    )


def _report(run: StageRun, shown: Shown, facts: Mapping[str, Any], summary: Mapping[str, Any]) -> Report:
    flagged = shown.flagged
    parents = {name: parent.manifest for name, parent in run.parents.items()}
    first = most_suspect(shown.split["suspicion"].to_numpy(), flagged & ~shown.canaries, run.config["shown_suspects"])
    label = dominating(shown.labels[first], most=1, share=0.0)[0]
    clean = least_suspect(shown.split["suspicion"].to_numpy(), flagged | shown.canaries, shown.labels, label, _CLEAN)
    cards = _cards(shown, np.concatenate([first, clean]))
    carrying = int(shown.carrying.sum())
    counts = {
        "kept": int((~flagged & ~shown.canaries).sum()),
        "suspect": int(flagged.sum()) - carrying,
        "poisoned": carrying,
    }
    if shown.canaries.any():
        counts["canary, planted by this run"] = int(shown.canaries.sum())
    dataset = str(parents["ingest"].config["dataset"]).removeprefix("drop:")
    height, width = shown.images.shape[2:]
    return Report(
        summary=summary,
        title=f"{dataset} · {len(shown.labels):,} training images of {width} × {height}",  # noqa: RUF001
        colour=facts["colour"],
        sentence=facts["sentence"],
        next_steps=facts["next_steps"],
        caveats=facts["caveats"],
        headline=_headline(summary, shown),
        charts=_charts(run, shown, facts, summary),
        suspects=cards[: len(first)],
        clean=cards[len(first) :],
        gallery_class=shown.class_names[label],
        differences=_differences(shown),
        classes=facts["classes"],
        detectors=detectors(candidates_of(facts["probes"]), _signals(run), facts["mixed_classes"], facts["mapping"]),
        probes=candidates_of(facts["probes"]),
        times=_times(facts, summary),
        ordinary=(facts["ordinary"][0], facts["ordinary"][1]),
        counts=counts,
        attack=shown.attack,
        provenance=_provenance(run, summary),
        command=command(parents, run.changed),
        settings={**settings(parents), "evaluate": run.config},
    )


def _signals(run: StageRun) -> list[str]:
    return list(run.parents["split"].manifest.facts["signals"])


def _headline(summary: Mapping[str, Any], shown: Shown) -> list[Figure]:
    final, rival = summary["stages"]["final"], summary["stages"]["undefended"]

    def figure(name: str, key: str) -> Figure:
        other = f"undefended model: {100 * rival[key]:.1f} %" if rival[key] is not None else "no undefended model"
        return Figure(name=name, value=f"{100 * final[key]:.1f} %", note=other)

    acc = figure("ACC of the final model", "acc")
    if final["asr"] is not None:
        return [acc, figure("ASR of the final model", "asr")]
    share = summary["split"]["suspects"] / max(1, len(shown.labels))
    suspects = Figure(
        name="Suspects", value=f"{summary['split']['suspects']:,}", note=f"{100 * share:.1f} % of the training images"
    )
    return [acc, suspects]


def _charts(run: StageRun, shown: Shown, facts: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    suspicion, flagged = shown.split["suspicion"].to_numpy()[~shown.canaries], shown.flagged[~shown.canaries]
    threshold = float(suspicion[flagged].min()) if flagged.any() else None
    k = len(shown.class_names)
    drawn = {
        "stages": charts.stage_chart(
            [(MODELS[model], figures["acc"], figures["asr"]) for model, figures in summary["stages"].items()]
        ),
        "classes": charts.class_chart(
            shown.class_names,
            np.bincount(shown.labels[shown.flagged], minlength=k).tolist(),
            np.bincount(shown.labels, minlength=k).tolist(),
        ),
        "confusion": charts.confusion_chart(
            confusion_matrix(shown.holdout_labels, shown.holdout_predicted, k), shown.class_names
        ),
        "time": charts.time_chart(
            [(one.stage, one.train_seconds, one.seconds - one.train_seconds) for one in _times(facts, summary)],
            facts["ordinary"][0],
        ),
    }
    groups = {"kept": suspicion[~flagged], "suspect": suspicion[flagged]}
    if shown.poisoned is not None:
        poisoned = shown.poisoned[~shown.canaries]
        groups = {"clean": suspicion[~poisoned], "poisoned": suspicion[poisoned]}
        curve = _roc(shown)
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


def _roc(shown: Shown) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """The ROC curve of the suspicion against the truth; None where that is not known."""
    if shown.poisoned is None:
        return None
    own = ~shown.canaries
    return roc_curve(shown.split["suspicion"].to_numpy()[own], shown.poisoned[own])


def _cards(shown: Shown, rows: npt.NDArray[np.int64]) -> list[Card]:
    mine = shown.split.take(pa.array(rows))
    drawn = pictures([shown.images[row] for row in rows])
    return [
        Card(
            sample_id=int(row),
            picture=data,
            label=shown.class_names[shown.labels[row]],
            predicted=shown.class_names[guess],
            suspicion=float(suspicion),
            reasons=reasons,
            key=shown.keys[row],
            flagged=assignment != "clean",
            poisoned=None if shown.poisoned is None else bool(shown.poisoned[row]),
        )
        for row, data, guess, suspicion, reasons, assignment in zip(
            rows,
            drawn,
            shown.predict(rows),
            mine["suspicion"].to_pylist(),
            mine["reasons"].to_pylist(),
            mine["assignment"].to_pylist(),
            strict=True,
        )
    ]


def _differences(shown: Shown) -> list[Difference]:
    flagged, found = shown.flagged, []
    for label in dominating(shown.labels[flagged]):
        of_class = (shown.labels == label) & ~shown.canaries
        suspects, kept = np.flatnonzero(of_class & flagged), np.flatnonzero(of_class & ~flagged)
        if min(len(suspects), len(kept)) >= _FEWEST_MEAN:
            name = shown.class_names[label]
            found.append(difference(name, shown.images[suspects[:_MEAN_OF]], shown.images[kept[:_MEAN_OF]]))
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
