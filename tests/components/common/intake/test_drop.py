"""Drops in every form give the same real digits; what is wrong with one is told and does not stop the others."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.common.contracts.errors import ConfigError, DataError
from components.common.intake.drop import Drop, DropOptions, read_drop, survey_drop
from components.common.intake.load import load
from components.common.intake.sources import LocalFolder
from components.common.intake.store_folder import folders
from components.common.storage.addresses import join
from components.common.storage.store import Store
from components.common.tables.tables import SAMPLE_INDEX
from components.evaluate.suspects import cleaned_table
from tests.components.common.intake.drop_samples import (
    class_folders,
    csv_list,
    digits,
    encode,
    hostile,
    parquet_list,
    shard,
    shards,
)

Read = Callable[..., Drop]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    scratch = tmp_path / "scratch"

    def reads(root: object, folder_of: Callable = LocalFolder, **options: object) -> Drop:
        scratch.mkdir(exist_ok=True)
        return read_drop(str(root), DropOptions(**options), folder_of, scratch)

    return reads


def upload(store: Store, root: Path) -> str:
    address = join(store.root, "drops", root.name)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            store.put(join(address, path.relative_to(root).as_posix()), path.read_bytes())
    return address


def index_of(drop: Drop) -> dict[str, list]:
    parts = list(drop.index_tables(64))
    return {name: [value for part in parts for value in part[name].to_pylist()] for name in parts[0].column_names}


def pixels_of(drop: Drop, folder: Path) -> np.ndarray:
    drop.write_pixels(folder / "pixels.npy")
    return np.load(folder / "pixels.npy")


FORMS = {"folders": class_folders, "list": csv_list, "shards": shards}


@pytest.mark.parametrize("place", ["local", "store"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_gives_the_digits_with_their_labels(
    form: str, place: str, tmp_path: Path, store: Store, read: Read
) -> None:
    root = FORMS[form](tmp_path / form)
    drop = read(upload(store, root), folders(store)) if place == "store" else read(root)
    assert drop.form == form
    assert drop.rejected == []
    # WebP knows no grey.
    assert drop.shape == ((3, 28, 28) if form == "folders" else (1, 28, 28))
    assert (drop.n_train, len(drop.labels)) == (160, 200)
    names = [str(k) if form == "folders" else f"digit {k}" for k in range(10)]
    assert list(drop.class_names) == names
    index, pixels = index_of(drop), pixels_of(drop, tmp_path)
    assert index["sample_id"] == list(range(200))
    assert index["subset"] == ["train"] * 160 + ["holdout"] * 40
    assert np.bincount(drop.labels[160:]).tolist() == [4] * 10
    # JPEG and WebP of the class folders lose a little, so the nearest digit must be the very one of that label.
    known = np.array([image for _, _, image in digits(200)], dtype=np.int32)
    labels = np.array([label for _, label, _ in digits(200)])
    seen = set()
    for image, label in zip(pixels, drop.labels, strict=True):
        distance = np.abs(known - image[0].astype(np.int32)).mean(axis=(1, 2))
        nearest = int(distance.argmin())
        assert distance[nearest] < 5
        assert labels[nearest] == label
        seen.add(nearest)
    assert len(seen) == 200


def test_digests_are_those_of_the_files(tmp_path: Path, read: Read) -> None:
    index = index_of(read(class_folders(tmp_path / "d")))
    for uri, digest in zip(index["uri"], index["digest"], strict=True):
        assert hashlib.sha256(Path(uri).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("form", sorted(FORMS))
def test_cifar10_in_every_form(form: str, tmp_path: Path, read: Read) -> None:
    source = os.environ.get("UNTAINT_TEST_CIFAR10")
    if not source:
        pytest.skip("UNTAINT_TEST_CIFAR10 names no folder of CIFAR-10")
    table = pq.read_table(next(iter(sorted(Path(source).rglob("test*.parquet")))))
    column = "image" if "image" in table.column_names else "img"
    rows = [(entry[column]["bytes"], entry["label"]) for entry in table.slice(0, 400).to_pylist()]
    root = tmp_path / "cifar"
    if form == "shards":
        shard(root / "a.parquet", [image for image, _ in rows], [label for _, label in rows])
    else:
        keys = [f"{label if form == 'folders' else 'img'}/{row:03d}.png" for row, (_, label) in enumerate(rows)]
        for key, (image, _) in zip(keys, rows, strict=True):
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(image)
        if form == "list":
            parquet_list(root, list(zip(keys, (label for _, label in rows), strict=True)))
    drop = read(root)
    assert drop.form == form
    assert drop.shape == (3, 32, 32)
    assert (len(drop.labels), drop.rejected, len(drop.class_names)) == (400, [], 10)
    index = index_of(drop)
    given = {hashlib.sha256(image).hexdigest(): label for image, label in rows}
    assert [given[digest] for digest in index["digest"]] == index["given_label"]


# Holdout


def test_a_holdout_may_be_a_drop_of_its_own(tmp_path: Path, read: Read) -> None:
    rows = digits(300)
    shard(tmp_path / "train" / "a.parquet", [encode(i) for _, _, i in rows[:200]], [k for _, k, _ in rows[:200]])
    other = tmp_path / "holdout"
    for name, label, image in rows[200:260]:
        path = other / str(label) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    (other / "unheard of").mkdir()
    (other / "unheard of" / "x.png").write_bytes(encode(rows[299][2]))
    drop = read(tmp_path / "train", holdout=str(other))
    assert (drop.n_train, len(drop.labels)) == (200, 260)
    assert drop.reasons == {"no_label": 1}
    index = index_of(drop)
    assert all(uri.startswith(f"{tmp_path}/train/a.parquet#row=") for uri in index["uri"][:200])
    assert all(uri.startswith(f"{other}/") for uri in index["uri"][200:])
    expected = [int(Path(uri).parent.name) for uri in index["uri"][200:]]
    assert drop.labels[200:].tolist() == expected


def test_a_holdout_may_be_given_by_a_column(tmp_path: Path, read: Read) -> None:
    drop = read(csv_list(tmp_path / "d", subset=True))
    assert drop.n_train == 150
    index = index_of(drop)
    assert {int(Path(uri).stem) % 4 for uri in index["uri"][150:]} == {0}


def test_a_share_keeps_each_sample_on_its_side_when_the_drop_grows(tmp_path: Path, read: Read) -> None:
    small, large = (index_of(read(class_folders(tmp_path / "d", count), holdout="0.25")) for count in (200, 240))
    held = {uri for uri, subset in zip(small["uri"], small["subset"], strict=True) if subset == "holdout"}
    later = {uri for uri, subset in zip(large["uri"], large["subset"], strict=True) if subset == "holdout"}
    assert len(held) == 50
    assert len(later) == 60
    # The threshold moves by a sample or two per class.
    assert len(held & later) >= 40


@pytest.mark.parametrize("holdout", ["0", "1.5", "nan"])
def test_a_share_must_be_one(holdout: str, tmp_path: Path, read: Read) -> None:
    with pytest.raises(ConfigError, match="a share in"):
        read(class_folders(tmp_path / "d"), holdout=holdout)


def test_limits_keep_the_classes(tmp_path: Path, read: Read) -> None:
    drop = read(class_folders(tmp_path / "d"), train_limit=100, holdout_limit=20)
    assert np.bincount(drop.labels[:100]).tolist() == [10] * 10
    assert len(drop.labels) == 120


# What is bad about samples


def test_hostile_files_are_left_out_and_listed_and_the_rest_goes_on(tmp_path: Path, store: Store, read: Read) -> None:
    root = class_folders(tmp_path / "d")
    for name, (data, _) in hostile().items():
        (root / "3" / f"evil-{name}").write_bytes(data)
    drop = read(upload(store, root), folders(store), max_rejected_ratio=0.2)
    assert len(drop.labels) == 200
    found = {entry.key: entry.reason for entry in drop.rejected}
    assert found == {f"3/evil-{name}": reason for name, (_, reason) in hostile().items()}
    with pytest.raises(DataError, match=r"at most 5.0% of its samples rejected .* truncated"):
        read(upload(store, root), folders(store), max_rejected_ratio=0.05)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "d")
    with (root / "3" / "long.png").open("wb") as file:
        file.truncate(2**40)
    assert read(root).reasons == {"too_many_bytes": 1}


class Listing(LocalFolder):
    """A folder whose listing also names keys that no file system would hold."""

    extra = ("../3/up.png", "3/../../up.png", "/etc/passwd", "3/a\x00.png", "3//a.png", "3/./a.png", "C:/a", "3/\\a")

    def entries(self) -> Iterator[tuple[str, int]]:
        yield from super().entries()
        yield from ((key, 100) for key in self.extra)

    def read(self, key: str, size: int) -> bytes | None:
        assert key not in self.extra
        return super().read(key, size)


def test_keys_that_lead_elsewhere_are_refused_and_never_read(tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "d")
    outside = tmp_path / "outside.png"
    outside.write_bytes(encode(digits(10)[0][2]))
    (root / "3" / "link.png").symlink_to(outside)
    (root / "4" / "folder").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(root / "5" / "pipe.png")
    drop = read(root, Listing)
    assert drop.reasons == {"unsafe_key": len(Listing.extra) + 3}
    assert all(entry.key.isprintable() for entry in drop.rejected)
    assert len(drop.labels) == 200


def test_keys_of_a_list_may_not_leave_the_drop(tmp_path: Path, read: Read) -> None:
    root = csv_list(tmp_path / "d")
    (tmp_path / "secret.png").write_bytes(encode(digits(10)[0][2]))
    with (root / "index.csv").open("a") as file:
        file.write("../secret.png,digit 1\r\n/etc/passwd,digit 1\r\ns3://other/x.png,digit 1\r\n")
        file.write("img/none.png,digit 2\r\n")
        file.write(f"./img/{digits(200)[0][0]}.png,\r\n")
    drop = read(root)
    assert drop.reasons == {"unsafe_key": 3, "missing": 1, "no_label": 1}
    assert len(drop.labels) == 200


class Deadly(LocalFolder):
    """A folder with one file at which the process that reads it ends, as at a defect of a decoder."""

    def read(self, key: str, size: int) -> bytes | None:
        if key == "3/deadly.png":
            os._exit(11)
        return super().read(key, size)


def test_an_image_that_ends_the_decoder_is_one_rejected_sample(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", 10)
    (root / "3").mkdir(exist_ok=True)
    (root / "3" / "deadly.png").write_bytes(b"x")
    survey = survey_drop(str(root), DropOptions(), Deadly, _made(tmp_path / "crashes"))
    assert [(entry.key, entry.reason) for entry in survey.rejected] == [("3/deadly.png", "crashed")]
    assert survey.rows_seen == 11


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_rows_of_shards_are_judged_one_by_one(tmp_path: Path, read: Read) -> None:
    rows = digits(200)
    images: list[bytes | None] = [encode(image) for _, _, image in rows]
    labels: list[int | None] = [label for _, label, _ in rows]
    extra = [(None, 1), (encode(rows[0][2]) + b"more", 1), (encode(rows[1][2]), None), (encode(rows[2][2]), -1)]
    extra.append((encode(rows[3][2]), 10))
    images += [image for image, _ in extra]
    labels += [label for _, label in extra]
    shard(tmp_path / "d" / "a.parquet", images, labels, [f"d{k}" for k in range(10)])
    drop = read(tmp_path / "d")
    found = {entry.key: entry.reason for entry in drop.rejected}
    reasons = ["missing", "trailing_data", "no_label", "no_label", "no_label"]
    assert found == {f"a.parquet#row={200 + i}": reason for i, reason in enumerate(reasons)}
    assert len(drop.labels) == 200


def test_shards_that_cannot_be_read_count_as_shards(tmp_path: Path, read: Read) -> None:
    root = shards(tmp_path / "d")
    (root / "damaged.parquet").write_bytes((root / "part-0.parquet").read_bytes()[:-100])
    with pytest.raises(DataError, match="bad_shard 1"):
        read(root, max_rejected_ratio=0.05)
    drop = read(root, max_rejected_ratio=0.5)
    assert (drop.reasons, len(drop.labels)) == ({"bad_shard": 1}, 200)


def test_a_damaged_page_costs_the_rows_behind_it(tmp_path: Path, read: Read) -> None:
    root = shards(tmp_path / "d")
    data = bytearray((root / "part-1.parquet").read_bytes())
    second = pq.ParquetFile(root / "part-1.parquet").metadata.row_group(1).column(0)
    data[second.data_page_offset + second.total_compressed_size // 2] ^= 0xFF
    (root / "part-1.parquet").write_bytes(data)
    drop = read(root, max_rejected_ratio=0.5)
    assert set(drop.reasons) == {"bad_shard"}
    assert len(drop.labels) >= 100 + 40


def test_the_cap_on_rows_of_a_shard(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.common.intake import shards as drop_shards

    root = shards(tmp_path / "d")
    rows = digits(200)
    shard(root / "part-9.parquet", [encode(i) for _, _, i in rows[:120]], [k for _, k, _ in rows[:120]])
    monkeypatch.setattr(drop_shards, "MAX_SHARD_ROWS", 110)
    assert read(root, max_rejected_ratio=0.5).reasons == {"too_many_rows": 1}


def test_one_image_under_two_labels_is_left_out_altogether(tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "d")
    copied = sorted((root / "3").iterdir())[0]
    (root / "5" / "copy.png").write_bytes(copied.read_bytes())
    drop = read(root)
    assert {(entry.key, entry.reason) for entry in drop.rejected} == {
        (f"3/{copied.name}", "label_conflict"),
        ("5/copy.png", "label_conflict"),
    }
    assert len(drop.labels) == 199


def test_a_holdout_image_that_is_trained_on_leaves_the_holdout(tmp_path: Path, read: Read) -> None:
    root = csv_list(tmp_path / "d", subset=True)
    source = next(name for name, _, _ in digits(200) if int(name) % 4)
    label = next(label for name, label, _ in digits(200) if name == source)
    (root / "img" / "copy.png").write_bytes((root / "img" / f"{source}.png").read_bytes())
    with (root / "index.csv").open("a") as file:
        file.write(f"img/copy.png,digit {label},holdout\r\n")
    drop = read(root)
    assert [(entry.key, entry.reason) for entry in drop.rejected] == [("img/copy.png", "in_training")]
    assert (drop.n_train, len(drop.labels)) == (150, 200)


def test_copies_with_the_same_label_stay_and_stay_together(tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "files")
    keys = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    parquet_list(root, [(key, int(key[0])) for key in keys] * 3)
    index = index_of(read(root))
    assert len(index["uri"]) == 600
    sides: dict[str, set[str]] = {}
    for uri, subset in zip(index["uri"], index["subset"], strict=True):
        sides.setdefault(uri, set()).add(subset)
    assert {len(side) for side in sides.values()} == {1}


def test_sizes_differ(tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "d")
    (root / "3" / "wide.png").write_bytes(encode(np.arange(840, dtype=np.uint8).reshape(28, 30)))
    drop = read(root)
    assert drop.reasons == {"other_size": 1}
    assert "30x28 instead of 28x28" in drop.rejected[0].detail
    drop = read(root, image_size=16)
    assert (drop.reasons, drop.shape) == ({}, (3, 16, 16))


def test_one_coloured_image_makes_all_rgb(tmp_path: Path, read: Read) -> None:
    root = csv_list(tmp_path / "d")
    red = Image.new("RGB", (28, 28), (200, 10, 20))
    red.paste((0, 0, 0), (14, 14, 28, 28))
    (root / "img" / "red.png").write_bytes(encode(red))
    with (root / "index.csv").open("a") as file:
        file.write("img/red.png,digit 3\r\n")
    drop = read(root)
    assert drop.shape == (3, 28, 28)
    pixels = pixels_of(drop, tmp_path)
    red = index_of(drop)["uri"].index(str(root / "img" / "red.png"))
    assert pixels[red, :, 0, 0].tolist() == [200, 10, 20]
    others = np.delete(pixels, red, axis=0)
    assert np.array_equal(others[:, 0], others[:, 2])


# What is bad about drops


def put(folder: Path, count: int, image: Callable[[int], np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encode(image(number)))


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"a": 40, "b": 9}, r"at least 10 of each class; found fewer of b \(7\)"),
        ({"a": 40}, r"at least 2 classes; found 1"),
        ({"a": 2, "b": 1}, r"at least 10 of each class|a sample of each"),
    ],
)
def test_too_little_to_learn_from_is_told(counts: dict[str, int], told: str, tmp_path: Path, read: Read) -> None:
    labels = {"a": 0, "b": 500}
    for label, count in counts.items():
        put(tmp_path / "d" / label, count, lambda number, label=label: noise(number + labels[label]))
    with pytest.raises(DataError, match=told):
        read(tmp_path / "d")


def test_identical_samples_are_told(tmp_path: Path, read: Read) -> None:
    for label in ("a", "b"):
        put(tmp_path / "d" / label, 20, lambda _: noise(0))
    with pytest.raises(DataError, match="label_conflict 40"):
        read(tmp_path / "d", max_rejected_ratio=0.05)


def test_there_is_no_drop(tmp_path: Path, store: Store, read: Read) -> None:
    with pytest.raises(DataError, match="class folders of images, shards"):
        read(_made(tmp_path / "none"))
    with pytest.raises(DataError, match="found no files"):
        read(join(store.root, "none"), folders(store))
    with pytest.raises(ConfigError, match="a folder of this machine or s3://bucket/prefix"):
        read("")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", r"key \(text\) and label"),
        ("key,label\n", "1 to"),
        ("key,label\nx\n", "ArrowInvalid"),
        ("", "an empty file"),
    ],
)
def test_a_list_that_cannot_be_read_is_told(text: str, told: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "index.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        read(tmp_path / "d")


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(store: Store, tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "drop")
    address = upload(store, root)
    store.put(f"{address}-2/3/other.png", b"no image")
    assert read(address, folders(store)).rejected == []


def test_a_drop_is_a_dataset_by_name(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    data = load(f"drop:{root}", DropOptions())
    assert data.images.shape == (200, 3, 28, 28)
    assert data.n_train == 160


def test_the_same_drop_gives_the_same_rows(tmp_path: Path, read: Read) -> None:
    root = class_folders(tmp_path / "d")
    first, second = read(root), read(root)
    assert index_of(first) == index_of(second)
    assert np.array_equal(pixels_of(first, tmp_path), pixels_of(second, tmp_path))
    assert [column.name for column in SAMPLE_INDEX.columns] == list(index_of(first))


@pytest.mark.parametrize("place", ["local", "store"])
@pytest.mark.parametrize("form", ["folders", "shards"])
def test_the_cleaned_index_of_one_run_is_the_list_of_another(
    form: str, place: str, tmp_path: Path, store: Store, read: Read
) -> None:
    root = FORMS[form](tmp_path / form)
    address = upload(store, root) if place == "store" else str(root)
    folder_of = folders(store) if place == "store" else LocalFolder
    first = read(address, folder_of)
    before, pixels = index_of(first), pixels_of(first, tmp_path)
    index = pa.table({name: before[name] for name in SAMPLE_INDEX.schema.names}, schema=SAMPLE_INDEX.schema)
    suspects = np.array([3, 17, 150])
    cleaned = cleaned_table(index, suspects, first.class_names, first.location)
    pq.write_table(cleaned, tmp_path / "index.parquet")
    if place == "store":
        store.upload_file(f"{address}/index.parquet", tmp_path / "index.parquet")
    else:
        (root / "index.parquet").write_bytes((tmp_path / "index.parquet").read_bytes())
    second = read(address, folder_of)
    assert (second.form, second.rejected, second.class_names) == ("list", [], first.class_names)
    after = index_of(second)
    kept = np.delete(np.arange(200), suspects).tolist()
    for name in ("uri", "digest", "given_label", "subset"):
        assert after[name] == [before[name][row] for row in kept], name
    assert np.array_equal(pixels_of(second, tmp_path), pixels[kept])


def test_rows_of_shards_that_are_not_there_are_told(tmp_path: Path, read: Read) -> None:
    root = shards(tmp_path / "d")
    wrong = {"part-0.parquet#row=100": "bad_shard", "part-0.parquet#row=9999999": "bad_shard"}
    wrong |= dict.fromkeys(["part-2.parquet#row=0", "part-0.parquet#row=-1", "part-0.parquet#row=12345678"], "missing")
    wrong["../part-0.parquet#row=1"] = "unsafe_key"
    rows = [(f"part-{part}.parquet#row={row}", label) for part, row, label in by_shard(200)]
    parquet_list(root, [*rows, *((key, 3) for key in wrong)])
    drop = read(root, max_rejected_ratio=1.0)
    assert {entry.key: entry.reason for entry in drop.rejected} == wrong
    assert len(drop.labels) == 200


def test_a_list_names_files_or_rows_of_shards(tmp_path: Path, read: Read) -> None:
    root = shards(tmp_path / "d")
    (root / "x.png").write_bytes(encode(digits(1)[0][2]))
    parquet_list(root, [("x.png", 0), ("part-0.parquet#row=0", 0)])
    with pytest.raises(DataError, match="either files or rows of Parquet shards"):
        read(root)


def by_shard(count: int) -> list[tuple[int, int, int]]:
    """Part, row and label of each digit, as ``shards`` puts them."""
    return [(part, row, label) for part in range(2) for row, (_, label, _) in enumerate(digits(count)[part::2])]
