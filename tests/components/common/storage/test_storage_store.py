"""The store against a real S3 server."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.common.contracts.errors import ConfigError, ConflictError, ContractError, ResourceError, StorageError
from components.common.storage import probe as probing
from components.common.storage.addresses import join
from components.common.storage.probe import probe, require
from components.common.storage.store import MULTIPART_BYTES, Store


def test_bytes_come_back_and_their_digest_is_checked(store: Store):
    uri = join(store.root, "a")
    store.put(uri, b"hello")
    assert store.get(uri, hashlib.sha256(b"hello").hexdigest()) == b"hello"
    with pytest.raises(ContractError, match="sha256 0000") as caught:
        store.get(uri, "0" * 64)
    assert caught.value.subject == uri


def test_a_missing_object_is_named(store: Store, tmp_path: Path):
    uri = join(store.root, "nothing")
    for call in (store.get, store.get_with_etag):
        with pytest.raises(StorageError, match="nothing: expected an object"):
            call(uri)
    with pytest.raises(StorageError, match="NoSuchKey"):
        store.get_range(uri, 0, 1)
    with pytest.raises(StorageError, match="NoSuchKey"):
        store.download_file(uri, tmp_path / "x")
    assert store.find(uri) is None
    assert store.head(uri) is None
    assert not store.exists(uri)
    store.delete(uri)


def test_a_missing_bucket_is_not_taken_for_a_missing_object(s3: Store):
    calls = (
        lambda: s3.find("s3://no-such-bucket-here/a"),
        lambda: s3.get("s3://no-such-bucket-here/a"),
        lambda: list(s3.list("s3://no-such-bucket-here/")),
    )
    for call in calls:
        with pytest.raises(StorageError, match=r"127\.0\.0\.1.*404 NoSuchBucket.*Create the bucket"):
            call()


def test_only_the_first_conditional_put_creates(store: Store):
    uri = join(store.root, "once")
    assert store.put_if_absent(uri, b"first") is True
    assert store.put_if_absent(uri, b"first") is False
    assert store.get(uri) == b"first"


def test_a_stale_etag_loses(store: Store):
    uri = join(store.root, "pointer")
    store.put(uri, b"1")
    _, etag = store.get_with_etag(uri)
    store.put_if_match(uri, b"2", etag)
    with pytest.raises(ConflictError):
        store.put_if_match(uri, b"3", etag)
    assert store.get(uri) == b"2"
    store.delete(uri)
    with pytest.raises(ConflictError):
        store.put_if_match(uri, b"4", etag)


def test_a_write_whose_answer_got_lost_is_not_a_lost_race(store: Store):
    """boto3 retries a put after a time-out; the retry then meets the object that the first try wrote."""
    uri = join(store.root, "lost-answer")
    client = store._client()
    real = client.put_object

    def twice(**request):
        real(**request)
        return real(**request)

    client.put_object = twice
    assert store.put_if_absent(uri, b"mine") is True
    assert Store(store.root).put_if_absent(uri, b"mine") is False


def test_ranges_are_exact(store: Store):
    uri = join(store.root, "range")
    store.put(uri, bytes(range(100)))
    assert store.get_range(uri, 10, 5) == bytes(range(10, 15))
    with pytest.raises(ContractError, match="expected 20 bytes; found 10"):
        store.get_range(uri, 90, 20)
    with pytest.raises(StorageError, match="416"):
        store.get_range(uri, 100, 1)
    with pytest.raises(ConfigError):
        store.get_range(uri, 0, 0)


def test_ranges_of_many_objects_do_without_the_slow_client(store: Store, monkeypatch: pytest.MonkeyPatch):
    names = ["plain", "a b+c%2F~*'()!@&=;:,$", "ä/猫 (1).png", "tail?#x"]
    for name in names:
        store.put(f"{store.root}/{name}", f"bytes of {name}".encode())
    asked: list[str] = []
    real = store._client().get_object

    def counted(**request: Any) -> Any:
        asked.append(request["Key"])
        return real(**request)

    monkeypatch.setattr(store._client(), "get_object", counted)
    for name in names:
        data = f"bytes of {name}".encode()
        assert store.get_range(f"{store.root}/{name}", 0, len(data)) == data
        assert store.get_range(f"{store.root}/{name}", 9, 2) == data[9:11]
    assert asked == []
    # What is unusual is the slow client's: its answer, its message.
    with pytest.raises(ContractError, match="expected 99 bytes"):
        store.get_range(f"{store.root}/plain", 0, 99)
    assert len(asked) == 1


def test_a_store_that_refuses_the_quick_way_is_read_the_slow_way(store: Store, monkeypatch: pytest.MonkeyPatch):
    store.put(f"{store.root}/x", b"bytes")
    quick = store._clients.quick()
    sent = 0
    real = quick._get

    def refused(*request: Any) -> bytes | None:
        nonlocal sent
        sent += 1
        return real("no-such-bucket", *request[1:])

    monkeypatch.setattr(quick, "_get", refused)
    assert [store.get_range(f"{store.root}/x", 0, 5) for _ in range(30)] == [b"bytes"] * 30
    assert sent == 20, "after twenty refusals in a row, no more are asked for"


def test_listing_turns_pages_and_keeps_to_its_prefix(store: Store):
    uris = [join(store.root, "many", f"{n:04d}") for n in range(1_005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: store.put(uri, b"x"), uris))
    store.put(join(store.root, "other"), b"")
    found = list(store.list(join(store.root, "many") + "/"))
    assert [entry.uri for entry in found] == uris
    assert found[0].size_bytes == 1
    assert found[0].etag == store.get_with_etag(uris[0])[1]
    assert found[0].last_modified.tzinfo is not None


def test_times_of_a_listing_are_read_without_the_slow_parser(store: Store, monkeypatch: pytest.MonkeyPatch):
    uri = join(store.root, "a")
    store.put(uri, b"x")

    def slow(*args: object, **kwargs: object) -> None:
        raise AssertionError("a listing of 50,000 objects would spend three seconds here")

    monkeypatch.setattr("dateutil.parser.parse", slow)
    (listed,) = store.list(join(store.root, "a"))
    monkeypatch.undo()
    found = store.head(uri)
    assert found is not None
    # A head is told in another form, and to the second.
    assert abs((listed.last_modified - found.last_modified).total_seconds()) <= 1


def test_large_files_travel_in_parts_and_back(store: Store, tmp_path: Path):
    data = os.urandom(2 * MULTIPART_BYTES + 12_345)
    source, target, uri = tmp_path / "in", tmp_path / "out", join(store.root, "big")
    source.write_bytes(data)
    store.upload_file(uri, source)
    info = store.head(uri)
    assert info is not None
    assert info.size_bytes == len(data)
    # The ETag of a multipart object ends in its number of parts.
    assert info.etag.strip('"').endswith("-3")
    store.download_file(uri, target, hashlib.sha256(data).hexdigest(), len(data))
    assert target.read_bytes() == data


def test_a_wrong_download_leaves_the_old_file_and_no_litter(store: Store, tmp_path: Path):
    uri, target = join(store.root, "d"), tmp_path / "out"
    store.put(uri, b"new")
    target.write_bytes(b"old")
    with pytest.raises(ContractError, match="sha256"):
        store.download_file(uri, target, "0" * 64)
    with pytest.raises(ContractError, match="expected 4 bytes; found 3 bytes"):
        store.download_file(uri, target, None, 4)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_told_before_writing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk cannot be filled in a test, so the operating system's answer is the one thing replaced."""
    uri = join(store.root, "d")
    store.put(uri, b"new")
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1_000))
    with pytest.raises(ResourceError, match="1000 bytes free"):
        store.download_file(uri, tmp_path / "out")


def test_wrong_keys_are_told_without_showing_them(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageError, match=r"403 SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY") as caught:
        Store(store.root).get(join(store.root, "a"))
    assert "not-the-secret" not in str(caught.value) + repr(Store(store.root))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageError, match="403 InvalidAccessKeyId"):
        Store(store.root).put(join(store.root, "a"), b"")


def test_missing_credentials_are_told(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no usable credentials.*AWS_ACCESS_KEY_ID"):
        Store(store.root).put(join(store.root, "a"), b"")


def test_an_unreachable_endpoint_is_told_soon(store: Store, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:hidden@127.0.0.1:{port}")
    monkeypatch.setenv("UNTAINT_S3_MAX_ATTEMPTS", "2")
    start = time.monotonic()
    with pytest.raises(
        StorageError, match=f"127.0.0.1:{port}.*found a refused connection: nothing listens there.*AWS_ENDPOINT_URL"
    ) as caught:
        Store(store.root).get(join(store.root, "a"))
    assert time.monotonic() - start < 5
    assert "hidden" not in str(caught.value)


def test_a_name_that_does_not_resolve_is_reported_as_that(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid:8333")
    monkeypatch.setenv("UNTAINT_S3_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"found a host name that does not resolve \(DNS\)\. Check the host in AWS"):
        require(probe(Store(store.root)))


def test_https_where_the_store_speaks_http_is_reported_as_tls(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"].replace("http:", "https:"))
    monkeypatch.setenv("UNTAINT_S3_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"found a TLS problem \(.+\)\. Check http or https"):
        Store(store.root).get(join(store.root, "a"))


def test_an_address_that_swallows_packets_is_reported_as_a_time_out(store: Store, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as full:
        # A queue of one that is full takes no further connection, and answers nothing.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("UNTAINT_S3_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("UNTAINT_S3_CONNECT_TIMEOUT", "0.3")
        with pytest.raises(StorageError, match=r"found a time-out: no connection\. .*UNTAINT_S3_CONNECT_TIMEOUT"):
            Store(store.root).get(join(store.root, "a"))
        for one in waiting:
            one.close()


def test_a_silent_endpoint_times_out(store: Store, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("UNTAINT_S3_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("UNTAINT_S3_READ_TIMEOUT", "0.3")
        with pytest.raises(StorageError, match=r"a time-out: connected, and no answer.*UNTAINT_S3_READ_TIMEOUT"):
            Store(store.root).get(join(store.root, "a"))


def test_one_store_serves_many_threads(store: Store):
    fresh = Store(store.root)

    def round_trip(n: int) -> bytes:
        uri = join(fresh.root, f"t{n}")
        fresh.put(uri, str(n).encode())
        return fresh.get(uri)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(round_trip, range(64))) == [str(n).encode() for n in range(64)]


def test_a_store_travels_to_worker_processes(store: Store):
    store.put(join(store.root, "a"), b"1")
    assert pickle.loads(pickle.dumps(store)).get(join(store.root, "a")) == b"1"  # noqa: S301


def test_the_real_server_passes_the_probe_and_keeps_nothing(store: Store):
    start = time.monotonic()
    report = probe(store)
    assert time.monotonic() - start < 5
    require(report)
    assert report.ok
    assert [check.name for check in report.checks] == [
        *("bucket", "put", "get", "list", "ranged get", "multipart upload", "put If-None-Match", "put If-Match")
    ]
    assert list(store.list(store.root + "/")) == []


class _Careless(Store):
    """A store that ignores conditions, as some servers do."""

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        self.put(uri, data)
        return True

    def put_if_match(self, uri: str, data: bytes, etag: str) -> None:
        self.put(uri, data)


def test_a_store_that_ignores_conditions_is_refused(store: Store):
    report = probing.probe(_Careless(store.root))
    assert [check.name for check in report.checks if not check.ok] == ["put If-None-Match", "put If-Match"]
    with pytest.raises(StorageError, match=r"accepted a second write.*stale ETag.*publishing a manifest exactly once"):
        require(report)


def test_a_missing_bucket_ends_the_probe_at_once(s3: Store):
    report = probe(Store("s3://no-such-bucket-here"))
    assert not any(check.ok for check in report.checks)
    with pytest.raises(StorageError, match=r"found HTTP 404 NoSuchBucket\. Create the bucket"):
        require(report)
    # SeaweedFS would have made the bucket at the first write.
    with pytest.raises(StorageError, match="NoSuchBucket"):
        s3.find("s3://no-such-bucket-here/a")
