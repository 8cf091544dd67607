"""The ingest stage: read the dataset, inject an attack if asked, publish index, pixels and (aside) the truth."""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.common.attacks import canary
from components.common.datasets.base import LoadedDataset
from components.common.intake.drop import Drop, DropOptions, read_drop
from components.common.intake.load import OwnData, load, own_data
from components.common.intake.store_folder import folders
from components.common.runs.lifecycle import Published, StageRun
from components.common.tables.tables import POISON_TRUTH, REJECTED, SAMPLE_INDEX
from components.ingest.algorithm import (
    Injected,
    encode_png,
    inject,
    pixel_statistics,
    rejected_table,
    statistics_of,
)
from components.ingest.config import IngestConfig
from components.ingest.learnable import check_labels_left, check_learnable
from components.ingest.spec import SPECS

__all__ = ["IngestResult", "run_stage"]

_SHARD_ROWS = 50_000
_PART_ROWS = 262_144
(_SPEC,) = SPECS


@dataclass(frozen=True, slots=True)
class IngestResult(Published):
    """The stage's own result, and ``truth``: what it injected or planted itself, if it did."""

    truth: Published | None = None


def run_stage(config: IngestConfig, store_root: str, run_id: str) -> IngestResult:
    """Runs the stage.

    Args:
        config: What to read and what to inject.
        store_root: ``s3://bucket/prefix``.
        run_id: The run.

    Raises:
        UntaintError: The dataset, the attack or the store is not usable.
    """
    with (
        StageRun("ingest", config, store_root, run_id, {}, withheld=_SPEC.withheld) as run,
        StageRun("truth", config, store_root, run_id, {}, gate=run.gate) as aside,
    ):
        done, truth = run.finished(), aside.finished()
        if done is not None:
            return _beside(done, truth)
        attacked = config.attack != "none"
        own = own_data(config.dataset)
        if own is not None and not attacked:
            return _publish_drop(run, config, own, aside)
        options = _options(config, own)
        dataset = load(config.dataset, options, folders(run.store), keep_encoded=attacked)
        check_learnable(
            dataset.images[: dataset.n_train], dataset.labels[: dataset.n_train], dataset.class_names, config.dataset
        )
        if attacked:
            injected = inject(dataset, config)
            check_labels_left(injected.labels[: dataset.n_train], config.poison_rate)
            # The truth first: once the stage's own manifest stands, the stage is complete.
            truth = truth or _publish_truth(aside, dataset, injected)
        else:
            none = np.zeros(len(dataset.images), dtype=bool)
            injected = Injected(images=dataset.images, labels=dataset.labels, is_poisoned=none, changed=none, record={})
        return _beside(_publish(run, config, dataset, injected), truth)


def _beside(main: Published, truth: Published | None) -> IngestResult:
    outputs = {"truth_uri": truth.uri if truth else "", "truth_sha256": truth.sha256 if truth else ""}
    return IngestResult(main.uri, main.sha256, main.manifest, outputs, truth=truth)


def _options(config: IngestConfig, own: OwnData | None) -> DropOptions:
    settings: dict[str, Any] = {field.name: getattr(config, field.name, None) for field in fields(DropOptions)}
    return DropOptions(**{**settings, "as_published": own is not None and own.as_published})


def _publish_drop(run: StageRun, config: IngestConfig, own: OwnData, aside: StageRun) -> IngestResult:
    """Publishes a drop, with canaries if asked; files go from disk to the store, so memory does not grow with it."""
    with tempfile.TemporaryDirectory(prefix="untaint-drop-") as folder:
        scratch = Path(folder)
        drop = read_drop(own.location, _options(config, own), folders(run.store), scratch)
        pixels = scratch / "pixels.npy"
        counts = drop.write_pixels(pixels)
        truth = None
        if config.canary_ratio:
            drop, record = _plant(drop, pixels, config)
            # The truth first, as for an injected attack.
            truth = aside.publish(facts={"attack": {}, "canary": record}, metrics={})
        run.add_file("pixels", pixels, suffix=".npy", kind="array", rows=len(drop.labels))
        run.add_table_parts("sample_index", drop.index_tables(_PART_ROWS), SAMPLE_INDEX, scratch)
        run.add_table("rejected", rejected_table([*drop.rejected, *drop.passed.named]), REJECTED)
        mean, std = statistics_of(counts)
        published = run.publish(
            facts={
                "class_names": list(drop.class_names),
                "image_shape": list(drop.shape),
                "n_train": drop.n_train,
                "mean": mean,
                "std": std,
                "mirror": config.mirror != "no",
                # Keys of the suspects are told relative to it.
                "location": drop.location,
                "reading": drop.reading,
                "rejected": drop.reasons,
                "passed_over": dict(drop.passed.counts.most_common()),
                "classes": [asdict(count) for count in drop.classes],
            },
            metrics={
                "train_samples": drop.n_train,
                "holdout_samples": len(drop.labels) - drop.n_train,
                "classes": len(drop.class_names),
                "rejected_samples": drop.rejected_rows,
            },
        )
        return _beside(published, truth)


def _plant(drop: Drop, path: Path, config: IngestConfig) -> tuple[Drop, dict[str, Any]]:
    """Plants canaries among the training rows of the pixels' file; gives the drop with their labels, and the record."""
    pixels, labels = np.load(path, mmap_mode="r+"), drop.labels.copy()
    train = slice(0, drop.n_train)
    count = max(1, round(config.canary_ratio * drop.n_train))
    planted = canary.plant(pixels[train], labels[train], config.seed, count)
    pixels[planted.rows], labels[planted.rows] = planted.images, planted.labels
    pixels.flush()
    return replace(drop, labels=labels), planted.record


def _publish(run: StageRun, config: IngestConfig, dataset: LoadedDataset, injected: Injected) -> Published:
    uris, digests = list(dataset.uris), list(dataset.digests)
    if config.attack != "none" or not _stays_in_place(config.dataset):
        _add_images(run, dataset, injected, uris, digests)
    rows = len(dataset.images)
    index = pa.table(
        {
            "sample_id": np.arange(rows, dtype=np.int64),
            "uri": pa.array(uris, pa.string()),
            "digest": pa.array(digests, pa.string()),
            "given_label": injected.labels,
            "subset": pa.array(dataset.subsets.tolist(), pa.string()),
        },
        schema=SAMPLE_INDEX.schema,
    )
    run.add_table("sample_index", index, SAMPLE_INDEX)
    run.add_array("pixels", injected.images)
    mean, std = pixel_statistics(injected.images[: dataset.n_train])
    mirror = dataset.mirror if config.mirror == "auto" else config.mirror == "yes"
    return run.publish(
        facts={
            "class_names": list(dataset.class_names),
            "image_shape": list(injected.images.shape[1:]),
            "n_train": dataset.n_train,
            "mean": mean,
            "std": std,
            "mirror": mirror,
        },
        metrics={
            "train_samples": dataset.n_train,
            "holdout_samples": dataset.n_holdout,
            "classes": len(dataset.class_names),
        },
    )


def _stays_in_place(dataset: str) -> bool:
    """Whether a dataset's files stay where they are, and its rows' addresses lead to them."""
    return dataset.startswith("npz:")


def _add_images(run: StageRun, dataset: LoadedDataset, injected: Injected, uris: list[str], digests: list[str]) -> None:
    """Keeps the images as Hugging Face style Parquet, so that any trainer can read what this run trained on."""
    subsets = {"train": (0, dataset.n_train), "test": (dataset.n_train, len(dataset.images))}
    for subset, (first, last) in subsets.items():
        for part, start in enumerate(range(first, last, _SHARD_ROWS)):
            rows = range(start, min(start + _SHARD_ROWS, last))
            encoded = [
                dataset.encoded[row]
                if dataset.encoded is not None and not injected.changed[row]
                else encode_png(injected.images[row])
                for row in rows
            ]
            name = f"{subset}-{part:05d}"
            data = _shard(encoded, injected.labels[rows.start : rows.stop])
            uri = run.address_of(name, data, ".parquet")
            run.add_bytes(name, data, suffix=".parquet", kind="images", rows=len(rows))
            for position, row in enumerate(rows):
                uris[row] = f"{uri}#row={position}"
                digests[row] = hashlib.sha256(encoded[position]).hexdigest()


def _shard(encoded: list[bytes], labels: np.ndarray) -> bytes:
    image = pa.StructArray.from_arrays(
        [pa.array(encoded, pa.binary()), pa.nulls(len(encoded), pa.string())], names=["bytes", "path"]
    )
    table = pa.table({"image": image, "label": pa.array(labels.astype(np.int64))})
    sink = io.BytesIO()
    # Encoded images do not compress, and a dictionary of them would only cost memory.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, row_group_size=1000, write_page_checksum=True)
    return sink.getvalue()


def _publish_truth(aside: StageRun, dataset: LoadedDataset, injected: Injected) -> Published:
    truth = pa.table(
        {
            "sample_id": np.arange(len(dataset.images), dtype=np.int64),
            "is_poisoned": injected.is_poisoned,
            "true_label": dataset.labels,
        },
        schema=POISON_TRUTH.schema,
    )
    aside.add_table("poison_truth", truth, POISON_TRUTH)
    return aside.publish(facts={"attack": injected.record}, metrics={})
