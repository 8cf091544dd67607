"""People's data as they look: small pictures, every form written by the test itself, and what a check says of them."""

import csv
import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from PIL import Image

from components.common.intake.catalogue import Catalogue
from components.common.intake.columns import ColumnNames
from components.common.intake.drop import DropOptions, Survey, survey_drop
from components.common.intake.forms import read_catalogue
from components.common.intake.sources import Folder, LocalFolder
from components.common.intake.store_folder import folders
from components.common.storage.addresses import join
from components.common.storage.store import Store

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encode(picture: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, kind, **options)
    return out.getvalue()


@cache
def pixels(number: int) -> np.ndarray:
    """A picture of its own, uint8 [16, 16, 3]."""
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@cache
def picture(number: int, kind: str = "PNG") -> bytes:
    return encode(pixels(number), kind)


class Row(NamedTuple):
    """One sample: the name of its file, its label as the owner writes it, its bytes, and its split."""

    name: str
    label: Any
    data: bytes | None
    split: str = ""


def rows(labels: Iterable[Any], each: int = 16, *, split: str = "", first: int = 0) -> list[Row]:
    """Pictures of each label, all different."""
    named = list(enumerate(labels))
    return [
        Row(f"{first + at * each + n:04d}.png", label, picture(first + at * each + n), split)
        for at, label in named
        for n in range(each)
    ]


def put(root: Path, key: str, data: bytes | str = b"") -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def as_folders(root: Path, data: list[Row]) -> Path:
    for row in data:
        put(root, "/".join(filter(None, [row.split, str(row.label), row.name])), row.data or b"")
    return root


def as_list(root: Path, data: list[Row], name: str = "index.csv", header: tuple[str, str] = ("key", "label")) -> Path:
    put(root, "img/.keep")
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        has_split = any(row.split for row in data)
        writer.writerow([*header, *(["split"] if has_split else [])])
        for row in data:
            put(root, f"img/{row.name}", row.data or b"")
            label = "" if row.label is None else row.label
            writer.writerow([f"img/{row.name}", label, *([row.split] if has_split else [])])
    return root


def table_of(data: list[Row], image: str = "image", label: str = "label", names: list[str] | None = None) -> pa.Table:
    structs = [None if row.data is None else {"bytes": row.data, "path": row.name} for row in data]
    columns = {image: pa.array(structs, STRUCT), label: pa.array([row.label for row in data])}
    if any(row.split for row in data):
        columns["split"] = pa.array([row.split for row in data])
    table = pa.table(columns)
    if names is not None:
        feature = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    return table


def as_shards(root: Path, data: list[Row], name: str = "part-0.parquet", **options: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(data, **options), root / name, row_group_size=20)
    return root


def as_arrow(root: Path, data: list[Row], name: str = "data-00000-of-00001.arrow", **options: Any) -> Path:
    """As ``save_to_disk`` writes it."""
    table = table_of(data, **options)
    put(root, "dataset_info.json", "{}")
    put(root, "state.json", "{}")
    with pa.OSFile(str(put(root, name)), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return root


def as_tar(root: Path, data: list[Row], name: str = "shard-000000.tar") -> Path:
    """As WebDataset writes it."""
    with tarfile.open(put(root, name), "w") as archive:
        for row in data:
            stem = row.name.partition(".")[0]
            for member, content in ((f"{stem}.png", row.data), (f"{stem}.cls", str(row.label).encode())):
                if content is not None:
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return root


def catalogue(root: Path, *, holdout: bool = False, **names: str) -> Catalogue:
    """What the listing and the labels say; of class folders, no process is started for it."""
    scratch = root.parent / f"scratch-{uuid.uuid4().hex}"
    scratch.mkdir()
    return read_catalogue(LocalFolder(str(root)), scratch, ColumnNames(**names), holdout=holdout)


def by_class(found: Catalogue) -> dict[str, int]:
    """How many rows each class has."""
    counts = np.bincount(found.labels, minlength=len(found.class_names)).tolist()
    return dict(zip(found.class_names, counts, strict=True))


def survey(root: Path, store: Store | None = None, **options: Any) -> Survey:
    """What ``--only-check`` finds, of the folder or of the same in a store."""
    scratch = root.parent / f"scratch-{uuid.uuid4().hex}"
    scratch.mkdir()
    folder_of: Callable[[str], Folder] = LocalFolder
    address = str(root)
    if store is not None:
        folder_of, address = folders(store), join(store.root, f"drop-{uuid.uuid4().hex}")
        for path in root.rglob("*"):
            if path.is_file():
                store.put(f"{address}/{path.relative_to(root).as_posix()}", path.read_bytes())
    return survey_drop(address, DropOptions(**options), folder_of, scratch)


def left_out(found: Survey) -> dict[str, str]:
    """Key and reason of all that was rejected."""
    return {entry.key: entry.reason for entry in found.rejected}
