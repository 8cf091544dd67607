"""What images weigh in a registry, where each layer lies as a gzip file, and lies once however many images have it."""

from __future__ import annotations

import json
import posixpath
import subprocess
import tarfile
import zlib
from collections.abc import Iterable
from typing import IO, cast

from components.common.contracts.errors import ConfigError
from pipelines.images.build import STAGES

__all__ = ["compressed_sizes"]

_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
# As `docker push` does.
_LEVEL = zlib.Z_DEFAULT_COMPRESSION


def compressed_sizes(registry: str, tag: str, stages: Iterable[str] = STAGES) -> tuple[dict[str, int], int]:
    """Compresses the layers of images and counts; about a minute per 1.5 GB.

    Args:
        registry: Registry and path, as for ``image_of``.
        tag: Their tag.
        stages: The stages.

    Returns:
        Bytes of each stage's image, and of all of them together, with layers that they share counted once.

    Raises:
        ConfigError: Docker is missing, or an image is.
    """
    from pipelines.dag.training import image_of

    references = {image_of(stage, registry, tag): stage for stage in stages}
    layers, lengths = _saved(list(references))
    sizes = {references[name]: sum(lengths[path] for path in set(paths)) for name, paths in layers.items()}
    together = sum(lengths[path] for path in {path for paths in layers.values() for path in paths})
    return {stage: sizes[stage] for stage in references.values()}, together


def _saved(references: list[str]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Image to the paths of its layers, and the compressed length of each layer."""
    try:
        saving = subprocess.Popen(["docker", "save", *references], stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603, S607
    except FileNotFoundError:
        raise ConfigError(
            "sizes of images", expected="Docker", found="no program 'docker' on the PATH", hint="Install Docker."
        ) from None
    output, complaints = cast(IO[bytes], saving.stdout), cast(IO[bytes], saving.stderr)
    lengths: dict[str, int] = {}
    links: dict[str, str] = {}
    records: list[dict[str, list[str]]] = []
    with saving:
        try:
            with tarfile.open(fileobj=output, mode="r|") as archive:
                for member in archive:
                    if member.issym():
                        # The older format names a layer that is there already so.
                        links[member.name] = posixpath.normpath(
                            posixpath.join(posixpath.dirname(member.name), member.linkname)
                        )
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is not None and member.name == "manifest.json":
                        records = json.load(file)
                    elif file is not None:
                        lengths[member.name] = _packed(file)
        except tarfile.ReadError:
            # An archive that ends early, of which the exit code tells.
            pass
        said = complaints.read().decode(errors="replace").strip()
    if saving.returncode or not records:
        raise ConfigError(
            "sizes of images",
            expected="`docker save` to succeed",
            found=f"exit code {saving.returncode}; it said: {said[-500:]}",
            hint="Build the images first: `make images`.",
        )
    return {
        name: [links.get(path, path) for path in record["Layers"]] for record in records for name in record["RepoTags"]
    }, lengths


def _packed(file: IO[bytes]) -> int:
    """Length of a file as gzip; one that is gzip already keeps its own."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    length, plain, first = 0, 0, b""
    while chunk := file.read(_CHUNK_BYTES):
        first = first or chunk[:2]
        plain += len(chunk)
        if first != _GZIP:
            length += len(compressor.compress(chunk))
    return plain if first == _GZIP else length + len(compressor.flush())
