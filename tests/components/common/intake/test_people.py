"""A corpus of what people have, made here: each kind in every form, on the disk and in a real store."""

import json
import re
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.contracts.errors import ConfigError, DataError
from components.common.intake.images import ImageProblem, decode
from components.common.intake.labels import in_order, label_of
from components.common.intake.names import aside, unsafe
from components.common.intake.sniff import sniff
from components.common.intake.sources import checked_location
from components.common.storage.store import Store
from tests.components.common.intake.people import (
    Row,
    as_arrow,
    as_folders,
    as_list,
    as_shards,
    as_tar,
    by_class,
    catalogue,
    encode,
    left_out,
    picture,
    pixels,
    put,
    rows,
    survey,
    table_of,
)

Form = Callable[[Path, list[Row]], Path]
FORMS: dict[str, Form] = {"folders": as_folders, "list": as_list, "shards": as_shards, "arrow": as_arrow, "tar": as_tar}
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
ODD_NAMES = [
    "Bildschirmfoto 3.14.15\u202fPM.png",
    "no\u00a0break.png",
    "ideographic\u3000space.png",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.png",
    "_MG_0001.png",
    "\u200eIMG-20201120-WA0001.png",
]


# One drop with every kind of trouble that all forms can have


def troubled() -> list[Row]:
    data = rows([COMPOSED, "dog"]) + rows([f" {DECOMPOSED}", "dog "], 4, first=100)
    data += [Row(name, "dog", picture(200 + at)) for at, name in enumerate(ODD_NAMES)]
    # The same pixels in another file, under another label; an image of one colour; and no label at all.
    data.append(Row("again.bmp", "dog", encode(pixels(0), "BMP")))
    data.append(Row("black.png", "dog", encode(np.zeros((16, 16, 3), np.uint8))))
    data += [Row("minus.png", "-1", picture(300))]
    return data


@pytest.mark.parametrize("place", ["local", "store"])
@pytest.mark.parametrize("form", ["folders", "list", "shards"])
def test_the_same_troubles_have_the_same_end_in_every_form(form: str, place: str, tmp_path: Path, store: Store) -> None:
    root = FORMS[form](tmp_path / "d", troubled())
    found = survey(root, store if place == "store" else None, max_rejected_ratio=0.2)
    assert found.problem is None
    assert found.drop is not None
    assert found.drop.class_names == (COMPOSED, "dog")
    counts = {one.name: (one.train + one.holdout, one.rejected) for one in found.classes}
    # One of the first class, and two of the second.
    assert counts == {COMPOSED: (19, 1), "dog": (20 + len(ODD_NAMES), 2)}
    assert sorted(left_out(found).values()) == ["label_conflict", "label_conflict", "no_label", "one_colour"]


@pytest.mark.parametrize("form", ["arrow", "tar"])
def test_other_shards_hold_what_parquet_holds(form: str, tmp_path: Path) -> None:
    data = [row for row in troubled() if form != "tar" or row.name in ("minus.png", "black.png") or row.name[0] == "0"]
    found = survey(FORMS[form](tmp_path / "d", data), max_rejected_ratio=0.2)
    assert found.drop is not None
    assert found.drop.class_names == (COMPOSED, "dog")
    assert set(left_out(found).values()) >= {"no_label", "one_colour"}


# 1. What is left out is told


def test_litter_notes_and_files_of_other_kinds_are_passed_over_by_class_and_told(tmp_path: Path, store: Store) -> None:
    root = as_folders(tmp_path / "d", rows(["cat", "dog", "_background"]))
    litter = [
        "cat/@eaDir/0000.png/SYNOPHOTO_THUMB_M.jpg",
        "cat/@eaDir/0000.png@SynoEAStream",
        "cat/.AppleDouble/0000.png",
        "__MACOSX/cat/._0000.png",
        "cat/Thumbs.db",
        "desktop.ini",
        "dog/.ipynb_checkpoints/0016-checkpoint.png",
        "dog/#recycle/old.png",
        "dog/._0016.png",
    ]
    for key in litter:
        put(root, key, picture(999))
    put(root, "dog/.hidden.png", picture(998))
    put(root, "_READY.json", "{}")
    put(root, "README.md", "# Pets")
    put(root, "dog/no-image.dat", "not an image")
    for place in (None, store):
        found = survey(root, place)
        assert found.drop is not None, found.problem
        assert {one.name: one.train + one.holdout for one in found.classes} == dict.fromkeys(
            ("_background", "cat", "dog"), 16
        )
        assert {one.name: one.passed for one in found.classes} == {"_background": 0, "cat": 4, "dog": 5}
        assert dict(found.passed.counts) == {"litter": len(litter), "hidden": 1, "note": 1, "other": 2}
        assert {entry.key for entry in found.passed.named if entry.reason == "litter"} == set(litter)
        assert found.rejected == []


@pytest.mark.parametrize("kind", ["link", "hidden images", "empty folder", "litter alone"])
def test_a_class_of_which_nothing_is_left_stops_the_run(kind: str, tmp_path: Path, store: Store) -> None:
    root = as_folders(tmp_path / "d", rows(["cat", "dog"]))
    if kind == "link":
        as_folders(tmp_path / "elsewhere", rows(["bird"]))
        (root / "bird").symlink_to(tmp_path / "elsewhere" / "bird", target_is_directory=True)
    elif kind == "empty folder":
        (root / "bird").mkdir()
    else:
        put(root, "bird/.DSC_1.png" if kind == "hidden images" else "bird/Thumbs.db", picture(5))
    places = [None, store] if kind in ("hidden images", "litter alone") else [None]
    for place in places:
        found = survey(root, place, max_rejected_ratio=1.0)
        assert found.drop is None
        assert "none in bird" in str(found.problem)
        bird = next(one for one in found.classes if one.name == "bird")
        assert (bird.train, bird.holdout) == (0, 0)


def test_a_folder_of_the_console_is_an_empty_class_in_a_store_too(tmp_path: Path, store: Store) -> None:
    root = as_folders(tmp_path / "d", rows(["cat", "dog"]))
    for path in root.rglob("*.png"):
        store.put(f"{store.root}/pets/{path.relative_to(root).as_posix()}", path.read_bytes())
    store._client().put_object(  # type: ignore[attr-defined]
        Bucket=store.root.split("/")[2], Key=f"{store.root.split('/', 3)[3]}/pets/bird/", Body=b""
    )
    from components.common.intake.drop import DropOptions, survey_drop
    from components.common.intake.store_folder import folders

    (tmp_path / "s").mkdir()
    found = survey_drop(f"{store.root}/pets", DropOptions(), folders(store), tmp_path / "s")
    assert "none in bird" in str(found.problem)


@pytest.mark.parametrize("form", ["list", "shards"])
def test_a_class_whose_rows_are_all_bad_stops_the_run_in_lists_and_shards_too(form: str, tmp_path: Path) -> None:
    data = [*rows(["cat", "dog"], split="train"), Row("x.png", "bird", picture(77), "unheard of")]
    found = survey(FORMS[form](tmp_path / "d", data), max_rejected_ratio=1.0)
    assert "none in bird (1 rejected, 0 passed over)" in str(found.problem)


def test_images_beside_shards_are_counted_and_many_of_them_stop_the_run(tmp_path: Path) -> None:
    root = as_shards(tmp_path / "d", rows(["cat", "dog"]))
    put(root, "README.md", "pets")
    put(root, "assets/preview.png", picture(1))
    found = catalogue(root)
    assert dict(found.passed.counts) == {"other": 1, "beside": 1}
    as_folders(root, rows(["bird"], first=500))
    with pytest.raises(DataError, match=r"one form of data; found \.parquet shards, and 17 images in folders"):
        catalogue(root)
    as_tar(tmp_path / "two", rows(["cat"]))
    as_shards(tmp_path / "two", rows(["dog"]))
    with pytest.raises(DataError, match=r"found \.parquet and \.tar shards"):
        catalogue(tmp_path / "two")


def test_files_that_a_list_does_not_name_are_counted(tmp_path: Path) -> None:
    root = as_list(tmp_path / "d", rows(["cat", "dog"]))
    put(root, "img/forgotten.png", picture(600))
    found = catalogue(root)
    assert found.passed.counts["unlisted"] == 1
    assert [entry.key for entry in found.passed.named if entry.reason == "unlisted"] == ["img/forgotten.png"]


# 2. Splits


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ("train/{}", "val/{}"),
        ("training_set/{}", "test_set/{}"),
        ("Train/{}", "VALID/{}"),
        ("dataset/train/{}", "dataset/test/{}"),
        ("{}/train", "{}/eval"),
        ("train2017/{}", "val2017/{}"),
    ],
)
def test_folders_of_splits_are_no_classes(train: str, held: str, tmp_path: Path) -> None:
    for at, row in enumerate(rows(["a", "b"], 12) + rows(["a", "b"], 5, first=50)):
        put(tmp_path / "d", f"{(train if at < 24 else held).format(row.label)}/{row.name}", row.data or b"")
    found = catalogue(tmp_path / "d")
    assert by_class(found) == {"a": 17, "b": 17}
    assert found.holdout is not None
    assert int(found.holdout.sum()) == 10
    held_out = found.key_array(found.row_ref[found.holdout == 1]).to_pylist()
    assert all(key.startswith(held.partition("{")[0]) for key in held_out)
    assert "trained on" in found.reading
    assert "held out" in found.reading


@pytest.mark.parametrize("place", ["local", "store"])
def test_a_split_counts_in_every_form(place: str, tmp_path: Path, store: Store) -> None:
    data = rows(["a", "b"], split="train") + rows(["a", "b"], 3, split="validation", first=50)
    for form in ("folders", "list", "shards"):
        found = survey(FORMS[form](tmp_path / form, data), store if place == "store" else None)
        assert found.drop is not None, (form, found.problem)
        assert (found.drop.n_train, len(found.drop.labels)) == (32, 38), form


@pytest.mark.parametrize(
    "names", [("train", "val"), ("training", "dev"), ("data/train", "data/testing"), ("x", "holdout")]
)
def test_shards_are_held_out_by_their_names(names: tuple[str, str], tmp_path: Path) -> None:
    for name, data in zip(names, (rows(["a", "b"], 12), rows(["a", "b"], 3, first=50)), strict=True):
        as_shards(tmp_path / "d", data, f"{name}-00000-of-00001.PARQUET")
    found = catalogue(tmp_path / "d")
    assert found.holdout is not None
    assert int(found.holdout.sum()) == 6
    assert "held out by name" in found.reading


def _shard_of_no_split(root: Path) -> None:
    as_shards(root, rows(["a", "b"]), "train-0.parquet")
    as_shards(root, rows(["a", "b"], first=90), "unsupervised-0.parquet")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (["train/1.png", "val/2.png"], "images right in train, val"),
        (["train/a/1.png", "train/b/1.png", "extra/1.png"], "train, the name of a split, beside extra"),
        (["cats/1.png", "dogs/1.png", "test/1.png"], "test, the name of a split, beside cats, dogs"),
        (["a/train/1.png", "a/val/1.png", "b/1.png"], "folders of splits in some classes, and images in b"),
        (["test/a/1.png", "test/b/1.png"], "a training split; found only test"),
        (["Images/cat/1.png", "Images/dog/1.png"], r"name the folder: --drop .*/Images"),
        (_shard_of_no_split, "shards of splits, and beside them unsupervised-0.parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_layout_with_two_meanings_stops_the_run(
    make: list[str] | Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    if callable(make):
        make(root)
    else:
        for at, key in enumerate(make):
            put(root, key, picture(at))
    with pytest.raises(DataError, match=told):
        catalogue(root)


def test_trains_are_a_class_of_vehicles(tmp_path: Path) -> None:
    root = as_folders(tmp_path / "d", rows(["bus", "car", "train"]))
    assert by_class(catalogue(root)) == {"bus": 16, "car": 16, "train": 16}
    assert catalogue(root).holdout is None


def test_a_listed_file_in_a_folder_of_the_holdout_is_held_out(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lines = ["key,label"]
    for row in rows(["a", "test"], 3):
        for split in ("train", "test"):
            put(root, f"{split}/{row.name}", row.data or b"")
            lines.append(f"{split}/{row.name},{row.label}")
    put(root, "index.csv", "\n".join(lines))
    found = catalogue(root)
    assert found.holdout is None or found.holdout.sum() == 6


def test_the_drops_own_holdout_is_not_trained_on_when_another_is_given(tmp_path: Path) -> None:
    root = as_folders(tmp_path / "d", rows(["a", "b"], split="train") + rows(["a", "b"], 3, split="val", first=50))
    as_folders(tmp_path / "h", rows(["a", "b"], 4, first=80))
    found = survey(root, holdout=str(tmp_path / "h"))
    assert found.drop is not None
    assert (found.drop.n_train, len(found.drop.labels)) == (32, 40)
    assert found.passed.counts["own_holdout"] == 6


# 3. Labels


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("cat ", "cat"),
        (DECOMPOSED, COMPOSED),
        ("\u00a0cat\u3000", "cat"),
        (3, "3"),
        (3.0, "3"),
        (True, "true"),
        ("001", "001"),
        (-1, None),
        ("-1", None),
        (None, None),
        (float("nan"), None),
        (0.5, None),
        ("  ", None),
        ("a\nb", None),
        ("x" * 201, None),
        ("cat\u202egpj", None),
    ],
)
def test_what_a_label_is(value: Any, label: str | None) -> None:
    assert label_of(value) == label


def test_classes_come_by_number_and_then_by_text_whatever_order_they_are_met_in() -> None:
    texts = ["b", "001", "10", "1", "01", "2", "a"]
    for start in range(len(texts)):
        met = texts[start:] + texts[:start]
        names, codes = in_order(met, np.arange(len(met)), "d")
        assert names == ["001", "01", "1", "2", "10", "a", "b"]
        assert [names[code] for code in codes] == met


@pytest.mark.parametrize("other", ["numbers", "text"])
def test_shards_of_which_one_lost_its_class_names_stop_the_run(other: str, tmp_path: Path) -> None:
    as_shards(tmp_path / "d", rows([0, 1]), "a.parquet", names=["cat", "dog"])
    as_shards(tmp_path / "d", rows([0, 1] if other == "numbers" else ["0", "1"], first=50), "b.parquet")
    with pytest.raises(DataError, match=r"found numbers in b\.parquet and names in a\.parquet"):
        catalogue(tmp_path / "d")


def test_metadata_of_another_column_name_no_classes(tmp_path: Path) -> None:
    table = table_of(rows([0, 1])).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"breed": {"names": ["a"], "_type": "ClassLabel"}}}})}
    )
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / "a.parquet")
    assert by_class(catalogue(tmp_path / "d")) == {"0": 16, "1": 16}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (pa.array([0.0, 1.0, 2.0, None] * 8), {"0": 8, "1": 8, "2": 8}),
        (pa.array([True, False] * 16), {"false": 16, "true": 16}),
        (pa.array([0.25, 1.0] * 16), "0.25 (double)"),
        (pa.array([[0], [1]] * 16), "'label' of type list<"),
    ],
)
def test_labels_of_odd_types_are_read_or_told_with_their_type(labels: pa.Array, told: Any, tmp_path: Path) -> None:
    table = table_of(rows([0], 32)).set_column(1, "label", labels)
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / "a.parquet")
    found = catalogue(tmp_path / "d")
    if isinstance(told, dict):
        assert by_class(found) == told
    else:
        assert told in found.rejected[0].detail


# 4. Names


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_is_only_unusual_is_safe(name: str) -> None:
    assert unsafe(f"cat/{name}") is None
    assert aside(f"cat/{name}") is None


@pytest.mark.parametrize(
    "key",
    [
        "a\x00b",
        "../x",
        "a/../x",
        "/etc/x",
        "C:/x",
        "s3://b/x",
        "a\\b",
        "a\nb",
        "a\x1bb",
        "a\udcffb",
        "a\u202eb",
        "a//b",
    ],
)
def test_a_name_that_is_dangerous_is_not(key: str) -> None:
    assert unsafe(key) is not None


def test_a_listed_name_is_found_however_its_accents_are_stored(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for at in range(24):
        put(root, f"img/{DECOMPOSED}{at}.png", picture(at))
    put(root, "index.csv", "key,label\n" + "".join(f"img/{COMPOSED}{at}.png,{at % 2}\n" for at in range(24)))
    assert by_class(catalogue(root)) == {"0": 12, "1": 12}


# 5. Pixels


def test_the_same_pixels_in_other_files_are_the_same_image(tmp_path: Path) -> None:
    data = rows(["a", "b"], split="train") + rows(["a"], 2, split="val", first=50)
    data.append(Row("copy.webp", "a", encode(pixels(3), "WEBP", lossless=True), "val"))
    found = survey(as_folders(tmp_path / "d", data))
    assert left_out(found) == {"val/a/copy.webp": "in_training"}


def _same_again(at: int) -> bytes:
    slope = np.add.outer(np.arange(16), np.arange(16)) * 8
    return encode(np.dstack([slope, slope[::-1], slope.T]).astype(np.uint8), "JPEG", quality=80 + at)


def _copies(at: int) -> bytes:
    return encode(pixels(0), "PNG", compress_level=at % 9)


@pytest.mark.parametrize(
    ("make", "told"), [(_same_again, "nearly the same image throughout a"), (_copies, "images that differ")]
)
def test_a_class_of_one_image_written_many_times_is_told(
    make: Callable[[int], bytes], told: str, tmp_path: Path
) -> None:
    data = [Row(f"{at}.png", "a", make(at)) for at in range(18)] + rows(["b"], first=90)
    found = survey(as_folders(tmp_path / "d", data))
    assert told in str(found.problem)


# 7. Lists


def test_columns_that_nobody_needs_are_not_read(tmp_path: Path) -> None:
    root = as_list(tmp_path / "d", rows(["a", "b"]))
    head, *lines = (root / "index.csv").read_text().split()
    scores = ["1"] * (len(lines) - 1) + ["0.5 and some text"]
    notes = [""] * (len(lines) - 1) + ["text"]
    table = [f"score,{head},note", *(f"{s},{line},{n}" for s, line, n in zip(scores, lines, notes, strict=True))]
    # Padded so that the last lines are in another block than the first, from which types are guessed.
    padding = [f"1,img/none-{at:040d}.png,a," for at in range(150_000)]
    (root / "index.csv").write_text("\n".join([table[0], *padding, *table[1:]]))
    found = catalogue(root)
    assert by_class(found) == {"a": 16, "b": 16}


@pytest.mark.parametrize("text", ["key;label\n{};{}\n", "label\tkey\n{1}\t{0}\n", "\ufefffile_name, label\n{},{}\n"])
def test_other_delimiters_and_a_byte_order_mark_are_read(text: str, tmp_path: Path) -> None:
    head, line = text.split("\n")[:2]
    data = rows(["a", "b"], 3)
    for row in data:
        put(tmp_path / "d", row.name, row.data or b"")
    body = [line.format(row.name, row.label) for row in data]
    put(tmp_path / "d", "index.csv", "\n".join([head, *body]))
    assert by_class(catalogue(tmp_path / "d")) == {"a": 3, "b": 3}


def test_labels_that_pandas_made_fractions_are_whole(tmp_path: Path) -> None:
    root = as_list(tmp_path / "d", [*rows(["0.0", "1.0"], 3), Row("x.png", None, picture(9))])
    assert by_class(catalogue(root)) == {"0": 3, "1": 3}


# 8. Small and large


def test_what_is_too_small_or_too_large_is_told_with_limit_and_option(tmp_path: Path) -> None:
    tiny = [row._replace(data=encode(pixels(at)[:4, :4])) for at, row in enumerate(rows(["a", "b"]))]
    found = survey(as_folders(tmp_path / "d", tiny))
    assert "a side of at least 8 pixels, which every model needs; found 4x4. Set --image-size 32" in str(found.problem)
    large = encode(np.arange(2000 * 1000, dtype=np.uint8).reshape(1000, 2000))
    with pytest.raises(
        DataError, match=r"2000x1000 pixels, at most 1024x1024 are read without image_size.*--image-size"
    ):
        decode(large, 0)
    assert decode(large, 32).shape == (1, 32, 32)


# 9. What a file is, and what to do about it


def _second_jpeg() -> bytes:
    return picture(0, "JPEG") + picture(1, "JPEG")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (_second_jpeg(), "a second JPEG behind the first"),
        (picture(0, "JPEG") + b"\x00\x00\x00\x18ftypmp42" + bytes(40), "a video behind the image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404", "an HTML page. Download it again"),
        (b"\x00\x00\x00\x24ftypheic" + bytes(40), "a HEIC image. Convert it to PNG or JPEG"),
        (b"\x00\x00\x00\x24ftypavif" + bytes(40), "an AVIF image. Convert"),
        (encode(pixels(0), "TIFF"), "a TIFF image or a camera's raw file. Convert"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"<?xml version='1.0'?><svg xmlns=''/>", "an SVG drawing. Convert"),
        (bytes(100), "nothing but zeros"),
        (b"key,label\n1,2\n", "text. Leave it out"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_image_is_named_with_what_to_do(data: bytes, told: str) -> None:
    with pytest.raises(ImageProblem) as problem:
        decode(data, 0)
    assert re.search(told, problem.value.detail)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PNG", "JPEG", "WEBP"])
def test_formats_that_are_decoded_are_told_by_their_first_bytes(kind: str) -> None:
    data = picture(0, kind)
    assert sniff(data[:4096]).kind == kind.lower()
    assert decode(data, 0).shape == (3, 16, 16)


@pytest.mark.parametrize("address", ["s3a://bucket/x", "https://host/x.zip", "gs://bucket/x", "hf://datasets/x", " "])
def test_an_address_of_another_kind_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="a folder of this machine or s3://bucket/prefix"):
        checked_location(address)


def test_an_archived_object_is_to_be_restored() -> None:
    from botocore.exceptions import ClientError

    from components.common.storage._failures import explained

    answer = {"Error": {"Code": "InvalidObjectState"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    assert "restore it" in str(explained(ClientError(answer, "GetObject"), "host", "get", "s3://bucket/cat/1.png"))  # type: ignore[arg-type]


# Formats that people have


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_imagefolder_with_metadata(ending: str, tmp_path: Path) -> None:
    root = tmp_path / "d"
    for split, data in (("train", rows(["cat", "dog"], 12)), ("test", rows(["cat", "dog"], 3, first=50))):
        for row in data:
            put(root, f"{split}/{row.name}", row.data or b"")
        table = pa.table(
            {"file_name": [row.name for row in data], "label": [row.label for row in data], "text": ["x"] * len(data)}
        )
        if ending == "parquet":
            pq.write_table(table, root / split / "metadata.parquet")
        elif ending == "jsonl":
            put(root, f"{split}/metadata.jsonl", "\n".join(json.dumps(one) for one in table.to_pylist()))
        else:
            lines = [",".join(table.column_names), *(",".join(one.values()) for one in table.to_pylist())]
            put(root, f"{split}/metadata.csv", "\n".join(lines))
    found = catalogue(root)
    assert by_class(found) == {"cat": 15, "dog": 15}
    assert found.holdout is not None
    assert int(found.holdout.sum()) == 6
    assert "files from 'file_name', labels from 'label'" in found.reading


def test_metadata_without_labels_leave_the_classes_to_the_folders(tmp_path: Path) -> None:
    root = as_folders(tmp_path / "d", rows(["cat", "dog"]))
    put(root, "metadata.csv", "file_name,text\ncat/0000.png,a cat\n")
    found = catalogue(root)
    assert by_class(found) == {"cat": 16, "dog": 16}
    assert [(entry.key, entry.reason) for entry in found.passed.named] == [("metadata.csv", "other")]


@pytest.mark.parametrize(
    ("image", "label"), [("img", "labels"), ("pixel_values", "fine_label"), ("image", "target"), ("photo", "breed")]
)
def test_columns_are_guessed_and_the_guess_is_told(image: str, label: str, tmp_path: Path) -> None:
    as_shards(tmp_path / "d", rows(["cat", "dog"]), image=image, label=label)
    names = {"image": image, "label": label} if label == "breed" else {}
    if names:
        assert "--label-column" in catalogue(tmp_path / "d").rejected[0].detail
    found = catalogue(tmp_path / "d", **names)
    assert by_class(found) == {"cat": 16, "dog": 16}
    assert f"images from '{image}', labels from '{label}'" in found.reading


def test_of_two_label_columns_the_other_one_is_named(tmp_path: Path) -> None:
    table = table_of(rows([0, 1]), label="fine_label").append_column("target", pa.array([1] * 32))
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / "a.parquet")
    assert "labels from 'fine_label', not from target" in catalogue(tmp_path / "d").reading


def test_packed_arrow_and_other_hostile_shards_are_one_bad_shard(tmp_path: Path) -> None:
    root = as_arrow(tmp_path / "d", rows(["cat", "dog"]))
    table = table_of(rows(["cat"]))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(root / "data-1.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as out,
    ):
        out.write_table(table)
    put(root, "data-2.arrow", (root / "data-00000-of-00001.arrow").read_bytes()[:3000])
    whole = (root / "data-00000-of-00001.arrow").read_bytes()
    put(root, "data-4.arrow", whole[: whole.rindex(b"\xff\xff\xff\xff")])
    put(root, "data-3.arrow", b"ARROW1\x00\x00" + bytes(100))
    found = catalogue(root)
    assert {entry.key: entry.reason for entry in found.rejected} == dict.fromkeys(
        ("data-1.arrow", "data-2.arrow", "data-3.arrow", "data-4.arrow"), "bad_shard"
    )
    assert "compressed" in next(entry.detail for entry in found.rejected if entry.key == "data-1.arrow")
    tar = as_tar(tmp_path / "t", rows(["cat", "dog"]))
    data = (tar / "shard-000000.tar").read_bytes()
    put(tar, "cut.tar", data[: len(data) // 2 + 100])
    put(tar, "no-end.tar", data.rstrip(b"\x00") + bytes(-len(data.rstrip(b"\x00")) % 512))
    put(tar, "gz.tar", b"\x1f\x8b" + bytes(600))
    # A header that announces a name of nine gigabytes.
    long = bytearray(data[:512])
    long[124:136], long[156:157] = b"00000777777777777"[-12:], b"L"
    long[148:156] = b" " * 8
    long[148:156] = b"%06o\0 " % sum(long)
    put(tar, "long.tar", bytes(long) + bytes(1024))
    reasons = {entry.key: entry.reason for entry in catalogue(tar).rejected}
    assert reasons == dict.fromkeys(("cut.tar", "gz.tar", "long.tar", "no-end.tar"), "bad_shard")


def test_a_tar_of_class_folders_is_told_to_be_unpacked(tmp_path: Path) -> None:
    as_tar(tmp_path / "d", [Row(row.name, "x", row.data) for row in rows(["a"], 2)])
    with tarfile.open(tmp_path / "d" / "images.tar", "w") as archive:
        archive.add(put(tmp_path, "cat/1.png", picture(1)), "cat/1.png")
    details = [entry.detail for entry in catalogue(tmp_path / "d").rejected if entry.key == "images.tar"]
    assert "Unpack it into one folder per class" in details[0]
