"""The suspects' tables and CSV files, and the contact sheet, are what their owner can rely on without this project."""

import csv
import io
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from components.common.contracts.errors import ConfigError, ContractError
from components.common.runs.artifacts import StageManifest
from components.common.runs.publish import LocalObject, publish
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.checks import check_table
from components.common.tables.parquet import decode_table, encode_table
from components.common.tables.tables import CLEANED_INDEX, SAMPLE_INDEX, SUSPECTS, TableSpec, split_spec
from components.evaluate.suspects import by_suspicion, cleaned_table, judged_table, suspects_table, to_csv
from pipelines.views.suspects import contact_sheet, read_images, read_suspects, run_of, suspect_lines

DROP = "s3://bucket/drops/pets"
NAMES = ["cat", "=HYPERLINK(1)"]
KEYS = ["cat/1.png", "cat/2.png", "+dog/3.png", "dog/4, 5.png", "dog/6.png", "dog/7.png"]


def index() -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array(range(6), pa.int64()),
            "uri": pa.array([f"{DROP}/{key}" for key in KEYS[:5]] + ["s3://bucket/elsewhere/7.png"]),
            "digest": pa.array([f"{row:064x}" for row in range(6)]),
            "given_label": pa.array([0, 0, 1, 1, 1, 0], pa.int16()),
            "subset": pa.array(["train"] * 4 + ["holdout"] * 2),
        },
        schema=SAMPLE_INDEX.schema,
    )


def split() -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array(range(4), pa.int64()),
            "assignment": pa.array(["suspect", "clean", "poisoned", "suspect"]),
            "suspicion": pa.array([0.5, 0.9, 0.8, 0.5], pa.float32()),
            "signal_early": pa.array([0.1] * 4, pa.float32()),
            "reasons": pa.array([["early"], [], ["early", "disbelief"], []]),
        }
    ).cast(split_spec(["early"]).schema)


def judged() -> pa.Table:
    """The split, and a holdout of two rows whose first one is suspect."""
    ids = index()["sample_id"]
    return judged_table(split(), np.array([0.6, 0.2], dtype=np.float32), np.array([True, False]), ids)


def both() -> tuple[pa.Table, pa.Table]:
    rows = by_suspicion(judged())
    suspects = suspects_table(judged(), index(), rows, np.array([1, 0, 0, 0]), NAMES, DROP)
    return suspects, cleaned_table(index(), rows, NAMES, DROP)


def test_suspects_are_sorted_and_told_by_their_place_in_the_drop() -> None:
    suspects, _ = both()
    assert suspects["key"].to_pylist() == ["+dog/3.png", "dog/6.png", "cat/1.png", "dog/4, 5.png"]
    assert suspects["suspicion"].to_pylist() == pytest.approx([0.8, 0.6, 0.5, 0.5])
    assert suspects["label"].to_pylist() == [NAMES[1], NAMES[1], NAMES[0], NAMES[1]]
    assert suspects["predicted_label"].to_pylist() == [NAMES[1], NAMES[0], NAMES[0], NAMES[0]]
    assert suspects["sample_id"].to_pylist() == [2, 4, 0, 3]


def test_suspects_say_which_subset_they_are_from() -> None:
    suspects, _ = both()
    assert suspects["subset"].to_pylist() == ["train", "holdout", "train", "train"]
    assert suspects["reasons"].to_pylist() == [["early", "disbelief"], ["neighbours"], ["early"], []]


def test_the_cleaned_index_is_the_drop_without_them() -> None:
    _, cleaned = both()
    assert cleaned["key"].to_pylist() == ["cat/2.png"]
    assert cleaned["subset"].to_pylist() == ["train"]
    assert cleaned["sha256"].to_pylist() == [f"{row:064x}" for row in (1,)]
    # A run on something else than a drop has no place that keys could be relative to.
    assert (
        cleaned_table(index(), by_suspicion(split()), NAMES, "")["key"].to_pylist()[-1] == "s3://bucket/elsewhere/7.png"
    )


@pytest.mark.parametrize("rows", ["all", "none"])
def test_both_keep_their_contracts(rows: str) -> None:
    for table, spec in zip(both(), (SUSPECTS, CLEANED_INDEX), strict=True):
        shown = table if rows == "all" or spec is CLEANED_INDEX else table.slice(0, 0)
        check_table(shown, spec, subject="test")
        assert decode_table(encode_table(shown, spec, config_digest="c", parents={}), spec, subject="t").equals(shown)


def test_a_spreadsheet_finds_no_formula_in_the_csv() -> None:
    for table in both():
        cells = [cell for row in csv.reader(io.StringIO(to_csv(table).decode())) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "|"))]
    rows = list(csv.DictReader(io.StringIO(to_csv(both()[0]).decode())))
    assert [row["key"] for row in rows] == ["'+dog/3.png", "dog/6.png", "cat/1.png", "dog/4, 5.png"]
    assert rows[0]["label"] == "'=HYPERLINK(1)"
    assert rows[0]["reasons"] == "early; disbelief"
    assert list(rows[0]) == ["key", "label", "predicted_label", "suspicion", "reasons", "sample_id", "subset"]


def sheet_rows(count: int) -> list[dict]:
    return [
        {
            "label": "a\x1b[31m" * 20,
            "predicted_label": "b",
            "suspicion": 0.5,
            "reasons": ["x"],
            "key": f"{k}",
            "subset": "holdout",
        }
        for k in range(count)
    ]


@pytest.mark.parametrize("count", [1, 8, 9])
def test_the_contact_sheet_shows_every_suspect(count: int) -> None:
    colours = [np.full((3, 4, 4), 20 * (k + 1), dtype=np.uint8) for k in range(count)]
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(sheet_rows(count), colours))))
    for k in range(count):
        value = 20 * (k + 1)
        # 96 pixels square, but for the frame.
        assert (sheet == value).all(axis=2).sum() >= 90 * 90


def test_the_contact_sheet_has_labels_suspicion_and_reasons() -> None:
    image = [np.full((3, 4, 4), 40, dtype=np.uint8)]
    row = {**sheet_rows(1)[0], "label": "a"}
    sheets = [
        contact_sheet([{**row, **changes}], image)
        for changes in ({}, {"label": "z"}, {"predicted_label": "z"}, {"suspicion": 0.1}, {"reasons": ["y", "z"]})
    ]
    assert len(set(sheets)) == 5


def test_grey_and_oblong_images_keep_their_form() -> None:
    images = [np.zeros((1, 10, 40), dtype=np.uint8), np.zeros((3, 200, 100), dtype=np.uint8)]
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(sheet_rows(2), images))))
    assert 90 * 20 <= (sheet[:, :108] == 0).all(axis=2).sum() <= 96 * 24


def test_no_control_character_of_a_drop_reaches_the_terminal() -> None:
    assert all(line.isprintable() for line in suspect_lines(sheet_rows(3)))


def test_a_run_is_found_by_any_address_below_it() -> None:
    for end in ("", "/", "/evaluate", "/evaluate/suspects.0123.parquet"):
        assert run_of(f"s3://bucket/a/b/runs/r-1{end}") == ("s3://bucket/a/b", "r-1")
    with pytest.raises(ConfigError, match="s3://…/runs/RUN_ID"):
        run_of("s3://bucket/a/b")


def put_stage(store: Store, stage: str, files: dict[str, LocalObject]) -> None:
    draft = StageManifest(stage=stage, run_id="r", key="k", config={}, parents={}, code_version="c", objects={})
    publish(store, join(store.root, "runs", "r", stage), draft, files)


def encoded(table: pa.Table, spec: TableSpec) -> LocalObject:
    data = encode_table(table, spec, config_digest="c", parents={})
    return LocalObject(suffix=".parquet", kind="table", data=data, rows=table.num_rows)


def test_suspects_and_their_images_are_read_from_the_store(store: Store) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 7), dtype=np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    put_stage(store, "ingest", {"pixels": LocalObject(suffix=".npy", kind="array", data=buffer.getvalue(), rows=6)})
    put_stage(store, "evaluate", {"suspects": encoded(both()[0], SUSPECTS)})
    rows, _ = read_suspects(store, "r")
    assert [row["sample_id"] for row in rows] == [2, 4, 0, 3]
    images = read_images(store, "r", [2, 0, 3])
    assert np.array_equal(np.stack(images), pixels[[2, 0, 3]])
    with pytest.raises(ContractError, match="a sample below 6"):
        read_images(store, "r", [6])


def test_an_unfinished_run_and_other_arrays_are_told(store: Store) -> None:
    with pytest.raises(ConfigError, match=re.escape("a finished evaluate stage")):
        read_suspects(store, "r")
    wrong = LocalObject(suffix=".npy", kind="array", data=b"no array" * 40, rows=6)
    put_stage(store, "ingest", {"pixels": wrong})
    with pytest.raises(ContractError, match="uint8 images in C order"):
        read_images(store, "r", [0])
