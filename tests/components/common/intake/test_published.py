"""Published data by ``parquet:``: the same reader, with the classes and rows that the publisher gave them."""

from pathlib import Path

import numpy as np
import pytest

from components.common.contracts.errors import ConfigError
from components.common.intake.drop import DropOptions
from components.common.intake.load import load, own_data
from tests.components.common.intake.people import Row, as_shards, encode, picture, pixels, rows


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published") / "d"
    train = rows([1, 0], 20)
    as_shards(root, train[25:], "train-1.parquet", names=["dog", "cat"])
    as_shards(root, train[:25], "sub/train-0.parquet", names=["dog", "cat"])
    # The last of them is in training too.
    held = [*rows([0, 1], 3, first=60), Row("copy.png", 1, encode(pixels(0), "BMP"))]
    as_shards(root, held, "test.parquet", names=["dog", "cat"])
    return root


def test_classes_rows_and_bytes_stay_as_they_were_published(published: Path) -> None:
    data = load(f"parquet:{published}", DropOptions(as_published=True), keep_encoded=True)
    assert data.class_names == ("dog", "cat")
    assert (data.n_train, data.n_holdout) == (40, 7)
    order = [*range(25), *range(25, 40), *range(60, 66), 0]
    assert np.array_equal(data.images, [pixels(number).transpose(2, 0, 1) for number in order])
    assert data.labels.tolist() == [1] * 20 + [0] * 20 + [0] * 3 + [1] * 3 + [1]
    assert data.labels.dtype == np.int16
    assert data.uris[24] == f"{published}/sub/train-0.parquet#row=24"
    assert data.uris[25] == f"{published}/train-1.parquet#row=0"
    assert data.encoded is not None
    assert data.encoded[:46] == [picture(number) for number in order[:46]]
    assert data.encoded[46] == encode(pixels(0), "BMP")
    assert (data.name, data.mirror) == (f"parquet:{published}", True)


def test_limits_keep_shares_and_follow_the_seed(published: Path) -> None:
    data, other = (
        load(f"parquet:{published}", DropOptions(train_limit=30, holdout_limit=4, seed=seed, as_published=True))
        for seed in (5, 6)
    )
    assert np.bincount(data.labels[:30]).tolist() == [15, 15]
    assert np.bincount(data.labels[30:]).tolist() == [2, 2]
    assert data.uris != other.uris
    assert data.encoded is None


def test_what_a_datasets_name_means() -> None:
    assert own_data("mnist5k") is None
    found = own_data("parquet:s3://bucket/x")
    assert found is not None
    assert (found.location, found.as_published) == ("s3://bucket/x", True)
    with pytest.raises(ConfigError, match="expected one of cifar10, mnist5k, npz, drop:FOLDER, parquet:FOLDER"):
        own_data("imagenet")
    with pytest.raises(ConfigError, match="a folder of this machine or s3://bucket/prefix"):
        load("parquet", DropOptions())
