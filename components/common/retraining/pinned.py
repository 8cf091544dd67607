"""The evaluation set that an owner pins to a model's name: ``<root>/models/<name>/holdout.json``.

Holdouts change from drop to drop and come from whoever makes the drops. A pinned set is the owner's word for what the
model is for: it is not judged, and every candidate and every champion of that name is measured on it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.common.contracts.errors import ContractError
from components.common.intake.drop import Drop, DropOptions, read_drop
from components.common.intake.store_folder import folders
from components.common.retraining.claims import model_uri
from components.common.retraining.drops import deliver
from components.common.retraining.records import Pinned
from components.common.runs.artifacts import digest_of
from components.common.storage.addresses import join
from components.common.storage.store import Store

__all__ = ["EvaluationSet", "pin", "pinned_of", "read_pinned"]

_MAX_REJECTED = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Labelled images to measure on.

    Attributes:
        images: uint8 [n, c, h, w].
        names: [n], the class of each image, by name.
        digest: Hex sha256 over the images' digests and labels, whatever their order.
    """

    images: npt.NDArray[np.uint8]
    names: npt.NDArray[np.str_]
    digest: str


def pinned_of(store: Store, name: str) -> Pinned | None:
    """What is pinned to a model's name, or None.

    Raises:
        ContractError: The record is not readable.
        StorageError: The store cannot answer.
    """
    uri = _uri(store, name)
    found = store.find(uri)
    return None if found is None else Pinned.from_bytes(found[0], uri)


def pin(store: Store, name: str, location: str, image_size: int) -> Pinned:
    """Pins an evaluation set to a model's name, in place of what was pinned before.

    A folder of this machine is uploaded beside the record, so that every later promotion can read it.

    Args:
        store: The store at the root of the run data.
        name: Model name.
        location: ``s3://bucket/prefix`` or a folder of this machine, in any form that a drop may have.
        image_size: Side that its images are resized to, to see whether they can be read.

    Raises:
        ConfigError: An unusable location.
        DataError: It cannot be used: too many bad images, or too few of a class.
        StorageError: The store cannot serve.
    """
    present = pinned_of(store, name)
    kept = location.rstrip("/")
    if present is not None and kept == present.location:
        # What was pinned stays as it was: other content at the same address is an error, see ``read_pinned``.
        return present
    found = _read(store, location, image_size)
    if not location.startswith("s3://"):
        kept = join(model_uri(store.root, name), "holdout", found.digest[:16])
        if store.head(join(kept, "_READY.json")) is None:
            deliver(store, Path(location), kept)
    record = Pinned(location=kept, content=found.digest, rows=len(found.names))
    store.put(_uri(store, name), record.to_bytes())
    return record


def read_pinned(store: Store, pinned: Pinned, image_size: int) -> EvaluationSet:
    """Reads what is pinned.

    Args:
        store: The store at the root of the run data.
        pinned: The record.
        image_size: Side that its images are resized to.

    Raises:
        ContractError: It is not what was pinned any more.
        DataError: As ``pin``.
        StorageError: The store cannot serve.
    """
    found = _read(store, pinned.location, image_size)
    if found.digest != pinned.content:
        raise ContractError(
            pinned.location,
            expected=f"the evaluation set of {pinned.rows} images that was pinned",
            found=f"{len(found.names)} images of other content",
            hint="Bring the images back, or pin a set at another address with --holdout.",
        )
    return found


def _read(store: Store, location: str, image_size: int) -> EvaluationSet:
    options = DropOptions(image_size=image_size, max_rejected_ratio=_MAX_REJECTED)
    with tempfile.TemporaryDirectory(prefix="untaint-holdout-") as folder:
        scratch = Path(folder)
        drop = read_drop(location, options, folders(store), scratch)
        path = scratch / "pixels.npy"
        drop.write_pixels(path)
        names = np.array(drop.class_names)[drop.labels]
        return EvaluationSet(images=np.load(path), names=names, digest=_digest(drop, names))


def _digest(drop: Drop, names: npt.NDArray[np.str_]) -> str:
    digests = [digest for table in drop.index_tables(131_072) for digest in table["digest"].to_pylist()]
    return digest_of(sorted(zip(digests, names.tolist(), strict=True)))


def _uri(store: Store, name: str) -> str:
    return join(model_uri(store.root, name), "holdout.json")
