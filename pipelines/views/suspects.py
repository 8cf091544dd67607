"""The suspects of a finished run: read from the store, listed, and drawn on a contact sheet."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from components.common.contracts.errors import ConfigError, ContractError
from components.common.runs.artifacts import ObjectRef, StageManifest
from components.common.runs.publish import finished_stage
from components.common.storage.store import Store
from components.common.tables.parquet import decode_table
from components.common.tables.tables import SUSPECTS

__all__ = ["contact_sheet", "read_images", "read_suspects", "run_of", "suspect_lines"]

_RUN = re.compile(r"(?P<root>s3://.+?)/runs/(?P<run>[^/]+)(?:/.*)?")
_TILE = 96
_TEXT = 43
_GAP = 8
_HEADER_BYTES = 256
_SHOWN = 60


def run_of(address: str) -> tuple[str, str]:
    """Store root and run id of ``s3://…/runs/<run id>`` or of anything below it.

    Raises:
        ConfigError: The address names no run.
    """
    found = _RUN.fullmatch(address.rstrip("/"))
    if found is None:
        raise ConfigError(
            f"address '{address[:200]}'",
            expected="s3://…/runs/RUN_ID, or an object below it",
            found="none",
            hint="A run that was started here goes by its run id alone.",
        )
    return found["root"], found["run"]


def read_suspects(store: Store, run_id: str) -> tuple[list[dict[str, Any]], StageManifest]:
    """The suspects of a run, the most suspect first, and the evaluate stage's manifest.

    Raises:
        ConfigError: The run has not reached its end.
        ContractError: The table is damaged.
        StorageError: The store cannot serve.
    """
    uri, manifest = _manifest(store, run_id, "evaluate")
    ref = manifest.object("suspects", uri)
    table = decode_table(store.get(ref.uri, ref.sha256), SUSPECTS, subject=ref.uri)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows, manifest


def read_images(store: Store, run_id: str, sample_ids: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
    """Images of some samples, uint8 [c, h, w], without reading the others.

    Raises:
        ConfigError: The run has no ingest stage.
        ContractError: The pixels are not what the manifest says.
        StorageError: The store cannot serve.
    """
    uri, manifest = _manifest(store, run_id, "ingest")
    ref = manifest.object("pixels", uri)
    shape, start = _shape_of(store, ref)
    size = math.prod(shape[1:])
    images = []
    for sample in sample_ids:
        if not 0 <= sample < shape[0]:
            raise ContractError(
                ref.uri, expected=f"a sample below {shape[0]}", found=str(sample), hint="Both must be of one run."
            )
        data = store.get_range(ref.uri, start + sample * size, size)
        images.append(np.frombuffer(data, np.uint8).reshape(shape[1:]))
    return images


def suspect_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Suspects as lines of a table; text of the drop is shown without control characters."""
    from pipelines.views.summary import table

    head = ("suspicion", "subset", "label", "predicted", "reasons", "key")
    cells = [
        (
            f"{row['suspicion']:.3f}",
            str(row["subset"]),
            *(_plain(text) for text in (row["label"], row["predicted_label"], ", ".join(row["reasons"]), row["key"])),
        )
        for row in rows
    ]
    return table(head, cells)


def contact_sheet(
    rows: Sequence[Mapping[str, Any]], images: Sequence[npt.NDArray[np.uint8]], columns: int = 8
) -> bytes:
    """A PNG with each suspect's image, its given label, what it is taken for, its suspicion and the reasons.

    Args:
        rows: Suspects, as ``read_suspects`` gives them.
        images: Their images, uint8 [c, h, w].
        columns: Images in a row of the sheet.
    """
    columns = max(1, min(columns, len(rows)))
    width, height = _TILE + _GAP, _TILE + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, -(-len(rows) // columns) * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for position, (row, image) in enumerate(zip(rows, images, strict=True)):
        x, y = _GAP + position % columns * width, _GAP + position // columns * height
        pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        scale = _TILE / max(picture.size)
        # Small images are shown in hard pixels: a trigger of three pixels must not be blurred away.
        smooth = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.resize(size, smooth), (x, y))
        draw.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline="#8896a5")
        said = (f"{row['label']} -> {row['predicted_label']}", f"{row['suspicion']:.3f}", ", ".join(row["reasons"]))
        for line, text in enumerate(said):
            draw.text((x, y + _TILE + 2 + 13 * line), _fitting(text, font), fill="#1d2733", font=font)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _fitting(text: str, font: Any) -> str:
    plain = _plain(text)
    while plain and font.getlength(plain) > _TILE:
        plain = plain[:-2] + "…" if len(plain) > 2 else ""
    return plain


def _plain(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= _SHOWN else f"…{clean[1 - _SHOWN :]}"


def _manifest(store: Store, run_id: str, stage: str) -> tuple[str, StageManifest]:
    hint = f"Finish it with `untaint run --resume {run_id}`, or name the store."
    uri, _, manifest = finished_stage(store, run_id, stage, hint)
    return uri, manifest


def _shape_of(store: Store, ref: ObjectRef) -> tuple[tuple[int, ...], int]:
    """Shape of a published uint8 array, and where its values start in the file."""
    head = io.BytesIO(store.get_range(ref.uri, 0, min(_HEADER_BYTES, ref.size_bytes)))
    try:
        np.lib.format.read_magic(head)
        shape, fortran, kind = np.lib.format.read_array_header_1_0(head)
        usable = len(shape) == 4 and not fortran and kind == np.uint8
    except ValueError:
        usable, shape = False, ()
    if not usable or math.prod(shape) + head.tell() != ref.size_bytes:
        raise ContractError(
            ref.uri,
            expected="a .npy file of uint8 images in C order",
            found="another",
            hint="Run the ingest stage again under a new run id.",
        )
    return tuple(shape), head.tell()
