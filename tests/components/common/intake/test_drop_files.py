"""Shards, lists and folders that are damaged, or made to fill memory or time: each costs itself alone, and is told."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.contracts.errors import DataError
from components.common.intake.apart import Apart, EndedError
from components.common.intake.columns import ColumnNames
from components.common.intake.drop import DropOptions, Survey, survey_drop
from components.common.intake.shards import read_shard_labels
from components.common.intake.sources import LocalFolder
from tests.components.common.intake.drop_samples import class_folders, csv_list, digits, encode, shard, shards

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SOME = [(encode(image), label % 2) for _, label, image in digits(60)]


def survey(root: Path, **options: Any) -> Survey:
    scratch = root.parent / f"scratch of {root.name}"
    scratch.mkdir()
    return survey_drop(str(root), DropOptions(**options), LocalFolder, scratch)


def written(root: Path, columns: list[tuple[str, Any]], name: str = "a.parquet", **options: Any) -> Path:
    root.mkdir(exist_ok=True)
    table = pa.Table.from_arrays([pa.array(values) for _, values in columns], names=[name for name, _ in columns])
    pq.write_table(table, root / name, **options)
    return root


def images(values: list[bytes] | None = None) -> pa.Array:
    return pa.array([{"bytes": data, "path": "../../etc/passwd"} for data in values or [i for i, _ in SOME]], IMAGE)


LABELS = [label for _, label in SOME]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([("image", images()), ("label", LABELS), ("label", LABELS)], "one column 'label' of numbers or text"),
        ([("image", images()), ("image", images()), ("label", LABELS)], "several columns 'image'"),
        ([("image.bytes", [i for i, _ in SOME]), ("image", images()), ("label", LABELS)], "several columns 'image'"),
        ([("image", images()), ("label", [[label] for label in LABELS])], "one column 'label' of numbers or text"),
        ([("image", images()), ("label", LABELS), ("subset", [["train"]] * 60)], "one column 'subset' of text"),
    ],
    ids=["label twice", "image twice", "dotted", "nested label", "nested subset"],
)
def test_a_shard_of_other_columns_is_one_bad_shard(columns: list[tuple[str, Any]], told: str, tmp_path: Path) -> None:
    root = written(shards(tmp_path / "d"), columns, "part-9.parquet")
    found = survey(root, max_rejected_ratio=0.5)
    assert [(entry.key, entry.reason) for entry in found.rejected] == [("part-9.parquet", "bad_shard")]
    assert told in found.rejected[0].detail
    assert found.drop is not None
    assert len(found.drop.labels) == 200


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_shard_that_unfolds_to_far_more_than_it_holds_is_refused_unread(column: str, tmp_path: Path) -> None:
    # Some kilobytes of file that would be a hundred megabytes of memory, and could as well be two thousand.
    large = 100 * 2**20
    values = [b"\0" * large, *(i for i, _ in SOME[1:])] if column == "image" else None
    labels = ["y" * large, *map(str, LABELS[1:])] if column == "label" else LABELS
    columns = [("image", images(values)), ("label", labels)]
    root = written(shards(tmp_path / "d"), columns, "part-9.parquet", compression="zstd", use_dictionary=False)
    assert (root / "part-9.parquet").stat().st_size < 100_000
    found = survey(root, max_rejected_ratio=0.5)
    assert [(entry.key, entry.reason) for entry in found.rejected] == [("part-9.parquet", "bad_shard")]
    assert "unfold" in found.rejected[0].detail


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([("key", ["a"]), ("key", ["a"]), ("label", [1])], r"key \(string\), key \(string\)"),
        ([("key", ["a"]), ("label", [[1]])], "list<"),
        ([("key", [{"a": "b"}]), ("label", [1])], "struct<"),
        ([("key", [b"a"]), ("label", [1])], "binary"),
        ([("key", ["a"]), ("label", ["y" * 100 * 2**20])], "unfold"),
    ],
    ids=["key twice", "nested label", "nested key", "bytes", "inflated"],
)
def test_a_list_of_other_columns_is_told(columns: list[tuple[str, Any]], told: str, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", 20)
    written(root, columns, "index.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=told):
        survey(root)


def test_a_csv_list_may_not_name_a_column_twice(tmp_path: Path) -> None:
    root = csv_list(tmp_path / "d", 20)
    (root / "index.csv").write_text("key,label,label\nimg/00000.png,1,2\n")
    with pytest.raises(DataError, match="each once"):
        survey(root)


def test_whole_numbers_that_were_written_as_fractions_are_their_labels(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", 60)
    keys = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.*"))]
    # As pandas writes them where one label is missing.
    labels = [float(key[0]) for key in keys[:-1]] + [float("nan")]
    written(root, [("key", keys), ("label", labels)], "index.parquet")
    found = survey(root)
    assert [entry.reason for entry in found.rejected] == ["no_label"]
    assert found.drop is None or list(found.drop.class_names) == [str(k) for k in range(10)]
    assert "1.0" not in str(found.problem)


def test_a_dictionary_with_places_that_it_does_not_have_is_no_list(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", 20)
    keys = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.*"))]
    written(root, [("key", keys), ("label", [key[0] for key in keys])], "index.parquet", compression="none")
    data = bytearray((root / "index.parquet").read_bytes())
    chunk = pq.ParquetFile(root / "index.parquet").metadata.row_group(0).column(0)
    # Indices are packed in five bits each, in groups of eight: the last of the twenty is in the third byte from behind.
    data[chunk.dictionary_page_offset + chunk.total_compressed_size - 3] = 0xFF
    (root / "index.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"index\.parquet: expected a whole list"):
        survey(root)


def _million_mentions(root: Path, labels: list[Any], subset: str = "train") -> Path:
    keys = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.*"))]
    rows = 300_000
    columns = {"key": keys * (rows // len(keys)), "label": labels, "subset": [subset] * rows}
    pq.write_table(pa.table(columns), root / "index.parquet")
    return root


@pytest.mark.parametrize("fault", ["subset", "label_conflict", "no_label"])
def test_a_mention_that_is_repeated_is_told_once_and_counted_each_time(fault: str, tmp_path: Path) -> None:
    labels = {"subset": [1] * 300_000, "label_conflict": list(range(3)) * 100_000, "no_label": [None] * 300_000}
    root = _million_mentions(
        class_folders(tmp_path / "d", 20), labels[fault], "validate" if fault == "subset" else "train"
    )
    found = survey(root)
    assert {entry.reason for entry in found.rejected} == {fault}
    # Twenty images, under three labels at most.
    assert len(found.rejected) <= 60
    assert (found.rejected_rows, found.rows_seen) == (300_000, 300_000)


def test_thousands_of_nulls_are_told_row_by_row(tmp_path: Path) -> None:
    shard(tmp_path / "d" / "a.parquet", [None] * 5_000 + [i for i, _ in SOME], [0] * 5_000 + LABELS)
    found = survey(tmp_path / "d")
    assert [entry.key for entry in found.rejected] == [f"a.parquet#row={row}" for row in range(5_000)]


# Processes


def test_a_process_that_ends_is_told_and_replaced() -> None:
    with Apart() as apart:
        for _ in range(2):
            with pytest.raises(EndedError):
                apart.call(os._exit, 11)
        assert apart.call(int, "7") == 7


def test_a_problem_there_is_raised_here(tmp_path: Path) -> None:
    with Apart() as apart, pytest.raises(DataError, match="no such folder") as told:
        apart.call(_told, "no such folder")
    assert told.value.hint == "hint"


def _told(found: str) -> None:
    raise DataError("subject", expected="expected", found=found, hint="hint")


class _Ended(Apart):
    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        raise EndedError


def test_a_shard_at_which_its_reader_ends_is_one_bad_shard(tmp_path: Path) -> None:
    root = shards(tmp_path / "d")
    found = read_shard_labels(LocalFolder(str(root)), "part-0.parquet", tmp_path / "scratch", _Ended(), ColumnNames())
    assert found == ("bad_shard", "the process that read it ended")
    assert (root / "part-0.parquet").exists()


def test_any_flipped_byte_of_a_footer_is_one_bad_shard_or_none(tmp_path: Path) -> None:
    # Some of these bring the process down that reads them.
    root = shards(tmp_path / "d")
    good = (root / "part-0.parquet").read_bytes()
    footer = int.from_bytes(good[-8:-4], "little") + 8
    rng = np.random.default_rng(0)
    for number in range(150):
        data = bytearray(good)
        data[len(data) - int(rng.integers(1, footer + 1))] = int(rng.integers(256))
        (root / f"x{number}.parquet").write_bytes(data)
    found = survey(root, max_rejected_ratio=1.0)
    assert {entry.reason for entry in found.rejected} >= {"bad_shard"}
    assert found.drop is not None or found.problem is not None


# Folders


def test_what_cannot_be_opened_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    # Not a file, or not for everyone: either is an OSError, and the second one root never sees.
    assert LocalFolder(str(tmp_path)).read("folder", 1) is None


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_that_is_none_is_told_as_such(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="No such file or directory" if kind == "missing" else "Not a directory"):
        survey(tmp_path / kind)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "d", 20)
    scan = os.scandir

    def closed(path: str) -> Any:
        if str(path).endswith("/3"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(
        DataError, match=r"drop folder .*d/3: expected a folder that can be read; found Permission denied"
    ):
        survey(root)
