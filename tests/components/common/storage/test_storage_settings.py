"""Settings of the S3 client and names of objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.common.contracts.errors import ConfigError
from components.common.storage.addresses import join, parse_uri
from components.common.storage.settings import S3Settings


def test_defaults_keep_checksums_and_five_attempts():
    assert S3Settings.from_environment({}) == S3Settings(
        checksums="when_supported", connect_timeout=5.0, read_timeout=60.0, max_attempts=5, path_style=None
    )


def test_variables_are_read_and_an_endpoint_means_path_style():
    found = S3Settings.from_environment(
        {
            "UNTAINT_S3_CHECKSUMS": "when_required",
            "UNTAINT_S3_CONNECT_TIMEOUT": "0.5",
            "UNTAINT_S3_READ_TIMEOUT": "7",
            "UNTAINT_S3_MAX_ATTEMPTS": "2",
            "AWS_ENDPOINT_URL": "http://seaweedfs:8333",
        }
    )
    assert found == S3Settings(
        checksums="when_required", connect_timeout=0.5, read_timeout=7.0, max_attempts=2, path_style=True
    )
    chosen = {"UNTAINT_S3_PATH_STYLE": "no", "AWS_ENDPOINT_URL_S3": "https://s3.example.org"}
    assert S3Settings.from_environment(chosen).path_style is False


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UNTAINT_S3_CHECKSUMS", "never"),
        ("UNTAINT_S3_CONNECT_TIMEOUT", "0"),
        ("UNTAINT_S3_READ_TIMEOUT", "nan"),
        ("UNTAINT_S3_READ_TIMEOUT", "soon"),
        ("UNTAINT_S3_MAX_ATTEMPTS", "1.5"),
        ("UNTAINT_S3_MAX_ATTEMPTS", "inf"),
        ("UNTAINT_S3_MAX_ATTEMPTS", "21"),
        ("UNTAINT_S3_PATH_STYLE", "maybe"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str):
    with pytest.raises(ConfigError, match=f"{variable}.*{value}"):
        S3Settings.from_environment({variable: value})


@pytest.mark.parametrize("uri", ["", "bucket/key", "http://bucket/key", "s3://", "s3://Ab/key", "s3://bucket//key"])
def test_what_is_not_an_s3_uri_is_refused(uri: str):
    with pytest.raises(ConfigError, match="s3://BUCKET/KEY"):
        parse_uri(uri)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("s3://b/u", "bucket 'b', 1 character"),
        ("s3://my/u", "bucket 'my', 2 characters"),
        ("s3:///u", "bucket '', 0 characters"),
        (f"s3://{'a' * 64}/u", "64 characters"),
        ("s3://My_Bucket/u", "bucket 'My_Bucket', characters that no bucket name has"),
    ],
)
def test_a_bucket_name_that_cannot_be_is_told_with_the_rule(uri: str, found: str):
    with pytest.raises(ConfigError, match="expected a bucket name of 3 to 63 of") as caught:
        parse_uri(uri)
    assert found in caught.value.found


def test_uris_split_and_join():
    assert parse_uri("s3://bucket/a/b c.txt") == ("bucket", "a/b c.txt")
    assert join("s3://bucket/", "runs", "a/b") == "s3://bucket/runs/a/b"
    for part in ("", "/a", "a/", "../a", "a/../b"):
        with pytest.raises(ConfigError, match="relative key"):
            join("s3://bucket", part)


def test_importing_the_room_loads_no_boto3():
    script = (
        "import sys; import components.common.storage.embedded, components.common.storage.probe,"
        " components.common.runs.publish; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[4]).returncode == 0
