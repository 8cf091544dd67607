"""Fifty thousand small images, from the embedded store, in both forms that they mostly come in."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from components.common.datasets.base import load
from components.common.storage.addresses import join
from components.common.storage.store import Store
from tests.components.common.intake.drop_samples import shard

logger = logging.getLogger(__name__)

IMAGES = 50_000
# A minute on two cores has 120 s of computing, of which the store takes about 25 for so many objects.
CPU_SECONDS = 90.0
INGEST = """
import resource, sys, time
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage
if __name__ == "__main__":
    start = time.perf_counter()
    manifest = run_stage(IngestConfig(dataset=sys.argv[1], attack="none"), sys.argv[2], sys.argv[3]).manifest
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    rows = int(manifest.metrics["train_samples"] + manifest.metrics["holdout_samples"])
    print(rows, time.perf_counter() - start, sum(u.ru_utime + u.ru_stime for u in used), manifest.facts["peak_mib"])
"""


def jpeg(pixels: Image.Image) -> bytes:
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_thousand_images_are_read_in_a_minute_on_two_cores(store: Store, tmp_path: Path) -> None:
    source = os.environ.get("UNTAINT_TEST_CIFAR10")
    if not source:
        pytest.skip("UNTAINT_TEST_CIFAR10 names no folder of CIFAR-10")
    data = load(f"parquet:{source}", train_limit=IMAGES, holdout_limit=100, image_size=0, seed=0)
    images = [jpeg(Image.fromarray(pixels.transpose(1, 2, 0))) for pixels in data.images[:IMAGES]]
    labels = data.labels[:IMAGES].tolist()
    shards, folders = join(store.root, "shards"), join(store.root, "folders")
    for part in range(5):
        path = tmp_path / f"part-{part}.parquet"
        shard(path, images[part::5], labels[part::5])
        store.upload_file(join(shards, path.name), path)
    with ThreadPoolExecutor(8) as pool:
        addresses = [f"{folders}/{label}/{row:05d}.jpg" for row, label in enumerate(labels)]
        list(pool.map(store.put, addresses, images))
    for drop in (shards, folders):
        done = subprocess.run(
            [sys.executable, "-c", INGEST, f"drop:{drop}", store.root, drop.rpartition("/")[2]],
            check=True, capture_output=True, text=True, env=os.environ, cwd=Path(__file__).parents[3], timeout=900,
        )  # fmt: skip
        rows, wall, cpu, peak = (float(value) for value in done.stdout.split())
        logger.info(f"{drop}: {wall:.1f} s, {cpu:.1f} s of computing, {peak:.0f} MiB")
        # Copies of one picture count once where they would stand on both sides, or contradict each other.
        assert 0.95 * IMAGES < rows <= IMAGES
        assert cpu < CPU_SECONDS
        assert peak < 1024
