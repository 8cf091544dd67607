"""The index of a drop is written part by part, in bounded memory, as the very file that the whole table gives."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.contracts.errors import ContractError
from components.common.runs.publish import find_manifest
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables import parquet, streaming
from components.common.tables.gate import QualityGate
from components.common.tables.parquet import decode_table, encode_table
from components.common.tables.streaming import write_parts
from components.common.tables.tables import SAMPLE_INDEX
from tests.components.common.intake.drop_samples import digits, encode

# What the stage's process may take besides a part or two: pyarrow, numpy and boto3 take 200 MiB alone.
LIMIT_MIB = {150_000: 900, 10_000_000: 2048}

INGEST = """
import sys
from components.ingest.config import IngestConfig
from components.ingest.stage import run_stage
if __name__ == "__main__":
    config = IngestConfig(dataset=sys.argv[1], attack="none", image_size=8, seed=0)
    run_stage(config, sys.argv[2], "r")
"""


def index(rows: int, first: int = 0) -> pa.Table:
    ids = np.arange(first, first + rows, dtype=np.int64)
    return pa.table(
        {
            "sample_id": ids,
            "uri": [f"s3://bucket/drop/ä{row}.png" for row in ids],
            "digest": [hashlib.sha256(str(row % 7).encode()).hexdigest() for row in ids],
            "given_label": pa.array(ids % 3, pa.int16()),
            "subset": ["train" if row % 5 else "holdout" for row in ids],
        },
        schema=SAMPLE_INDEX.schema,
    )


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    with QualityGate() as gate:
        yield gate


def write(path: Path, gate: QualityGate, *parts: pa.Table) -> int:
    return write_parts(
        path,
        parts,
        SAMPLE_INDEX,
        config_digest="c",
        parents={"a": "b"},
        check=lambda part: gate.check_async(part, SAMPLE_INDEX, subject="test"),
    )


def test_parts_give_the_bytes_of_the_whole_table(
    tmp_path: Path, gate: QualityGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (parquet, streaming):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", 1_000)
    sizes = (2_000, 1_000, 234)
    parts = [index(size, sum(sizes[:at])) for at, size in enumerate(sizes)]
    assert write(tmp_path / "index.parquet", gate, *parts) == sum(sizes)
    whole = pa.concat_tables(parts)
    data = (tmp_path / "index.parquet").read_bytes()
    assert data == encode_table(whole, SAMPLE_INDEX, config_digest="c", parents={"a": "b"})
    assert decode_table(data, SAMPLE_INDEX, subject="test").equals(whole.combine_chunks())
    assert [path.name for path in tmp_path.iterdir()] == ["index.parquet"]


def test_a_part_must_go_on_where_the_one_before_ended(tmp_path: Path, gate: QualityGate) -> None:
    with pytest.raises(ContractError, match="a value above 9 in the next part"):
        write(tmp_path / "index.parquet", gate, index(10), index(10, 9))


def test_every_part_is_checked(tmp_path: Path, gate: QualityGate) -> None:
    wrong = index(10, 10).set_column(4, "subset", pa.array(["train"] * 9 + ["test"]))
    with pytest.raises(ContractError, match="column 'subset'"):
        write(tmp_path / "index.parquet", gate, index(10), wrong)


@pytest.mark.parametrize(
    "rows", [150_000, pytest.param(10_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_memory_does_not_grow_with_the_drop(rows: int, store: Store, tmp_path: Path) -> None:
    drop = join(store.root, "drop")
    chosen = digits(500)
    for name, label, image in chosen:
        store.put(f"{drop}/img/{label}/{name}.png", encode(image))
    repeats = -(-rows // len(chosen))
    keys = pa.array([f"img/{label}/{name}.png" for name, label, _ in chosen] * repeats).slice(0, rows)
    labels = pa.array([label for _, label, _ in chosen] * repeats, pa.int64()).slice(0, rows)
    pq.write_table(pa.table({"key": keys, "label": labels}), tmp_path / "index.parquet")
    del keys, labels
    store.upload_file(f"{drop}/index.parquet", tmp_path / "index.parquet")
    subprocess.run(
        [sys.executable, "-c", INGEST, f"drop:{drop}", store.root],
        check=True,
        env=os.environ,
        cwd=Path(__file__).parents[4],
        timeout=3500,
    )
    found = find_manifest(store, join(store.root, "runs", "r", "ingest"))
    assert found is not None
    manifest = found[2]
    assert manifest.objects["sample_index"].rows == rows
    logging.getLogger(__name__).info(f"{rows} rows: {manifest.facts['peak_mib']} MiB in {manifest.seconds['total']} s")
    assert manifest.facts["peak_mib"] < LIMIT_MIB[rows]
