"""Reads and decodes a drop's images in processes of their own: fast on several cores, and one bad image ends no run.

Each process appends pixels to a draft file of its own and hands back positions, so that neither side ever holds more
than a few images. A process that a hostile image brings down costs that image alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.contracts import errors
from components.common.datasets.base import Pixels
from components.common.intake.apart import carried, prepare, unpacked
from components.common.intake.catalogue import Catalogue
from components.common.intake.columns import ColumnNames
from components.common.intake.images import MAX_IMAGE_BYTES, ImageProblem, check_content, decode
from components.common.intake.shards import shard_images
from components.common.intake.sources import Folder, printable

__all__ = ["COARSE", "LOOK_BYTES", "Chunk", "Findings", "decode_all"]

COARSE = 8
"""Side of the coarse image by which images are compared."""

LOOK_BYTES = 16
"""Length of a digest of pixels."""

_CHUNK_IMAGES = 256
_CHUNK_BYTES = 16 * 2**20
_TOO_LONG = f"{{}} bytes, at most {MAX_IMAGE_BYTES} are read. Store a smaller image."
_SHARD_CHUNK = 4_096
_FETCHERS = 4
_WINDOW = 3
# Finding one takes some seconds; many of them are a machine at its limits.
_MAX_CRASHES = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What one task reads.

    Attributes:
        key: The shard, or empty where each image is a file.
        keys: The images' keys; empty for a shard.
        sizes: Their lengths in bytes; empty for a shard.
        rows: The rows of the shard, ascending; empty for files.
        refs: The images' numbers in the catalogue, in the order of ``keys`` or ``rows``.
    """

    key: str
    keys: list[str]
    sizes: list[int]
    rows: npt.NDArray[np.int64]
    refs: npt.NDArray[np.int32]

    def halves(self) -> tuple[Chunk, Chunk]:
        """The chunk in two."""
        cut = len(self.refs) // 2
        return self._part(slice(0, cut)), self._part(slice(cut, None))

    def _part(self, part: slice) -> Chunk:
        return Chunk(
            key=self.key, keys=self.keys[part], sizes=self.sizes[part], rows=self.rows[part], refs=self.refs[part]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a task found, a row per image.

    Attributes:
        refs: The images' numbers.
        draft: The file that holds the pixels.
        offsets: int64, where each image's pixels start in it.
        shapes: int16 [n, 3]: channels, height, width; zeros for a rejected image.
        digests: uint8 [n, 32], sha256 of the encoded images.
        looks: uint8 [n, 16], digest of the pixels: equal for images that look the same, whatever their files are.
        coarse: uint8 [n, 64], the images in 8 x 8 grey levels.
        problems: Position in ``refs`` to reason and detail.
    """

    refs: npt.NDArray[np.int32]
    draft: str
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int16]
    digests: npt.NDArray[np.uint8]
    looks: npt.NDArray[np.uint8]
    coarse: npt.NDArray[np.uint8]
    problems: dict[int, tuple[str, str]]


def decode_all(
    catalogue: Catalogue, refs: npt.NDArray[np.int32], drafts: Path, side: int, processes: int = 0
) -> Iterator[Findings]:
    """Decodes images in parallel, in any order.

    Args:
        catalogue: The drop.
        refs: Which images, ascending.
        drafts: Folder for the draft files.
        side: Side in pixels to resize to; 0 keeps sizes.
        processes: Worker processes; 0 for one per core, four at most.

    Raises:
        UntaintError: The store cannot serve, or a shard that was whole cannot be read.
    """
    # A process takes half a second to start, which few images are not worth.
    wanted = processes or min(4, _cores(), -(-len(refs) // _CHUNK_IMAGES))
    pool = _Pool(catalogue, drafts, side, max(1, wanted))
    try:
        yield from pool.run(_chunks(catalogue, refs))
    finally:
        pool.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(catalogue: Catalogue, refs: npt.NDArray[np.int32]) -> Iterator[Chunk]:
    none = np.zeros(0, dtype=np.int64)
    if catalogue.shard is not None and catalogue.shard_row is not None:
        shard = catalogue.shard[refs]
        for position in np.unique(shard):
            mine = refs[shard == position]
            key = catalogue.keys[int(position)].as_py()
            for start in range(0, len(mine), _SHARD_CHUNK):
                part = mine[start : start + _SHARD_CHUNK]
                yield Chunk(key=key, keys=[], sizes=[], rows=catalogue.shard_row[part], refs=part)
        return
    start = 0
    while start < len(refs):
        part = refs[start : start + _CHUNK_IMAGES]
        # At least one image, and then as many as stay within the bound.
        sizes = np.minimum(catalogue.sizes[part], MAX_IMAGE_BYTES)
        part = part[: max(1, int(np.searchsorted(np.cumsum(sizes), _CHUNK_BYTES)))]
        keys = catalogue.key_array(part).to_pylist()
        yield Chunk(key="", keys=keys, sizes=catalogue.sizes[part].tolist(), rows=none, refs=part)
        start += len(part)


class _Pool:
    """Worker processes that are replaced when one dies."""

    def __init__(self, catalogue: Catalogue, drafts: Path, side: int, processes: int) -> None:
        self._settings = (catalogue.folder, catalogue.names, str(drafts), side, os.getpid())
        self._processes = processes
        self._crashes = 0
        self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Spawned, not forked: the parent may hold threads and locks of libraries.
        return ProcessPoolExecutor(
            self._processes, multiprocessing.get_context("spawn"), initializer=_prepare, initargs=self._settings
        )

    def run(self, chunks: Iterator[Chunk]) -> Iterator[Findings]:
        waiting: deque[tuple[Chunk, Future[Findings | dict[str, str]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, self._executor.submit(_work, chunk)))
            # A window bounds what is in flight, whatever the drop's size.
            if len(waiting) > _WINDOW * self._processes:
                yield from self._next(waiting)
        while waiting:
            yield from self._next(waiting)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _next(self, waiting: deque[tuple[Chunk, Future[Findings | dict[str, str]]]]) -> Iterator[Findings]:
        chunk, future = waiting.popleft()
        try:
            found = future.result()
        except BrokenProcessPool:
            # Nobody says which task it was: all that were in flight are done again, one at a time.
            again = [chunk, *(other for other, _ in waiting)]
            waiting.clear()
            for one in again:
                yield from self._alone(one)
            return
        yield unpacked(found)

    def _alone(self, chunk: Chunk) -> Iterator[Findings]:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._start()
        try:
            yield unpacked(self._executor.submit(_work, chunk).result())
        except BrokenProcessPool:
            if len(chunk.refs) > 1:
                for half in chunk.halves():
                    yield from self._alone(half)
                return
            self._crashes += 1
            if self._crashes > _MAX_CRASHES:
                raise errors.ResourceError(
                    f"drop {self._settings[0].location}, decoding",
                    expected=f"at most {_MAX_CRASHES} images at which the process ends",
                    found="more",
                    hint="Mostly memory ran out: give the stage more, or look at what the drop holds.",
                ) from None
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = self._start()
            yield _nothing(chunk, {0: ("crashed", "the process that decoded it ended")})


def _nothing(chunk: Chunk, problems: dict[int, tuple[str, str]]) -> Findings:
    count = len(chunk.refs)
    return Findings(
        refs=chunk.refs,
        draft="",
        offsets=np.zeros(count, np.int64),
        shapes=np.zeros((count, 3), np.int16),
        digests=np.zeros((count, 32), np.uint8),
        looks=np.zeros((count, LOOK_BYTES), np.uint8),
        coarse=np.zeros((count, COARSE * COARSE), np.uint8),
        problems=problems,
    )


# What follows runs in the worker processes.

_state: dict[str, Any] = {}


def _prepare(folder: Folder, names: ColumnNames, drafts: str, side: int, parent: int) -> None:
    prepare(parent)
    draft = Path(drafts, f"{os.getpid()}.draft")
    fetchers = ThreadPoolExecutor(_FETCHERS)
    _state.update(folder=folder, names=names, drafts=Path(drafts), side=side, draft=draft, fetchers=fetchers)


def _work(chunk: Chunk) -> Findings | dict[str, str]:
    try:
        images = _shard_images(chunk) if chunk.key else _file_images(chunk.keys, chunk.sizes)
        return _decoded(chunk, images)
    except errors.UntaintError as problem:
        return carried(problem)


def _decoded(chunk: Chunk, images: Iterator[bytes | tuple[str, str]]) -> Findings:
    found = _nothing(chunk, {})
    done = 0
    with _state["draft"].open("ab") as draft, contextlib.suppress(_ShardEndedError):
        for position, image in enumerate(images):
            done = position + 1
            if isinstance(image, tuple):
                found.problems[position] = image
                continue
            found.digests[position] = np.frombuffer(hashlib.sha256(image).digest(), np.uint8)
            try:
                pixels = decode(image, _state["side"])
                check_content(pixels, image)
            except ImageProblem as problem:
                found.problems[position] = (problem.reason, printable(problem.detail))
                continue
            found.looks[position], found.coarse[position] = _look(pixels), _coarse(pixels)
            found.offsets[position] = draft.tell()
            found.shapes[position] = pixels.shape
            draft.write(np.ascontiguousarray(pixels))
    for position in range(done, len(chunk.refs)):
        found.problems[position] = ("bad_shard", "the file ends or is damaged at or before this row")
    return replace(found, draft=str(_state["draft"]))


def _look(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """A digest of pixels; a grey image has that of the same in RGB."""
    grey = len(pixels) == 1 or (np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2]))
    seen = pixels[:1] if grey else pixels
    digest = hashlib.blake2b(repr(seen.shape).encode(), digest_size=LOOK_BYTES)
    digest.update(np.ascontiguousarray(seen).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _coarse(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """Mean grey levels of 8 x 8 parts of an image; zeros for one that has fewer pixels."""
    channels, height, width = pixels.shape
    if min(height, width) < COARSE:
        return np.zeros(COARSE * COARSE, np.uint8)
    rows, columns, areas = _parts(height, width)
    sums = np.add.reduceat(pixels, rows, axis=1, dtype=np.uint32)
    sums = np.add.reduceat(sums.sum(axis=0), columns, axis=1)
    levels: npt.NDArray[np.uint8] = (sums // (areas * np.uint32(channels))).astype(np.uint8).reshape(-1)
    return levels


# Without image_size a drop may have any number of sizes.
@functools.lru_cache(maxsize=64)
def _parts(height: int, width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.uint32]]:
    """Where 8 x 8 parts of an image begin, and how many pixels each has."""
    rows, columns = (np.linspace(0, side, COARSE + 1).astype(np.intp) for side in (height, width))
    return rows[:-1], columns[:-1], np.outer(np.diff(rows), np.diff(columns)).astype(np.uint32)


def _file_images(keys: Sequence[str], sizes: Sequence[int]) -> Iterator[bytes | tuple[str, str]]:
    folder: Folder = _state["folder"]

    def read(key: str, size: int) -> bytes | tuple[str, str]:
        if size > MAX_IMAGE_BYTES:
            return "too_many_bytes", _TOO_LONG.format(size)
        if size == 0:
            return "empty", "0 bytes"
        data = folder.read(key, size)
        return data if data is not None else ("missing", "it has gone or shrunk since it was listed, or cannot be read")

    yield from _state["fetchers"].map(read, keys, sizes)


class _ShardEndedError(Exception):
    """No further row of a shard can be read."""


def _shard_images(chunk: Chunk) -> Iterator[bytes | tuple[str, str]]:
    path = _shard_file(_state["folder"], chunk.key)
    try:
        for image in shard_images(path, chunk.key, _state["names"], chunk.rows):
            if image is None:
                yield "missing", "no image in this row; paths to other files are not followed"
            else:
                yield ("too_many_bytes", _TOO_LONG.format(image)) if isinstance(image, int) else image
    except errors.DataError as problem:
        raise _ShardEndedError from problem


def _shard_file(folder: Folder, key: str) -> Path:
    """The shard as a local file; a copy stays until this process reads another shard."""
    if _state.get("shard") != key:
        held: Path | None = _state.get("shard_path")
        if held is not None and held.is_relative_to(_state["drafts"]):
            held.unlink()
        scratch = _state["drafts"] / f"shards-{os.getpid()}"
        scratch.mkdir(exist_ok=True)
        _state.update(shard=key, shard_path=folder.fetch(key, scratch))
    path: Path = _state["shard_path"]
    return path
