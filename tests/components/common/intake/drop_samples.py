"""Drops made of real digits, in every form, and a corpus of hostile files with the reason each must be rejected for."""

import csv
import io
import json
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.common.datasets.base import load


def encode(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def digits(count: int) -> list[tuple[str, int, np.ndarray]]:
    """Name, label and pixels [28, 28] of real digits, class by class in turn; more digits begin with the same ones."""
    data = load("mnist5k", train_limit=0, holdout_limit=0, image_size=0, seed=0)
    rows = [np.flatnonzero(data.labels[: data.n_train] == position % 10)[position // 10] for position in range(count)]
    return [(f"{name:05d}", int(data.labels[row]), data.images[row, 0]) for name, row in enumerate(rows)]


def class_folders(root: Path, count: int = 200) -> Path:
    for name, label, image in digits(count):
        kind = ("png", "jpg", "webp")[int(name) % 3]
        path = root / str(label) / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {} if kind == "png" else {"quality": 95}
        path.write_bytes(encode(image, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[kind], **options))
    return root


def csv_list(root: Path, count: int = 200, subset: bool = False) -> Path:
    (root / "img").mkdir(parents=True)
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", *(["subset"] if subset else [])])
        for name, label, image in digits(count):
            (root / "img" / f"{name}.png").write_bytes(encode(image))
            given = ["holdout" if int(name) % 4 == 0 else "train"] if subset else []
            writer.writerow([f"img/{name}.png", f"digit {label}", *given])
    return root


def parquet_list(root: Path, rows: list[tuple[str, int]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    keys, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"key": pa.array(keys), "label": pa.array(labels, pa.int64())}), root / "index.parquet")
    return root


def shard(path: Path, images: list[bytes | None], labels: list[Any], names: list[str] | None = None) -> None:
    structs = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(structs, kind), "label": pa.array(labels)})
    if names is not None:
        feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=40, write_page_checksum=True)


def shards(root: Path, count: int = 200) -> Path:
    rows = digits(count)
    names = [f"digit {label}" for label in range(10)]
    for part in range(2):
        mine = rows[part::2]
        shard(root / f"part-{part}.parquet", [encode(i) for _, _, i in mine], [k for _, k, _ in mine], names)
    return root


def png(width: int, height: int, body: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8 bit grey with this header and these compressed bytes, which need not agree."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("payload.py", "print('from the archive')")
    return out.getvalue()


@cache
def hostile() -> dict[str, tuple[bytes, str]]:
    """Name to a file that must not get in, and the reason it must be given."""
    picture = np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
    good = {ending: encode(picture, kind) for ending, kind in kinds.items()}
    frame = good["jpg"].index(b"\xff\xc0") + 5
    huge_jpeg = good["jpg"][:frame] + struct.pack(">HH", 60_000, 60_000) + good["jpg"][frame + 4 :]
    size = (16_382).to_bytes(3, "little")
    huge_webp = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + size
    huge_webp = b"RIFF" + struct.pack("<I", len(huge_webp)) + huge_webp
    huge_gif = good["gif"][:6] + struct.pack("<HH", 60_000, 60_000) + good["gif"][10:]
    # Run lengths, of which a few bytes are a row of any length.
    huge_bmp = good["bmp"][:18] + struct.pack("<iiHHII", 60_000, 60_000, 1, 8, 1, 2) + good["bmp"][38:]
    flipped = bytearray(good["png"])
    flipped[60] ^= 0xFF
    progressive = encode(np.full((64, 64), 128, dtype=np.uint8), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    start_of_data = good["jpg"].index(b"\xff\xda") + 14
    text = b"Comment\x00\x00" + zlib.compress(bytes(200 * 2**20), 9)
    page = b"<html><script>alert(1)</script></html>"
    files = {
        "bomb.png": (png(9_000, 9_000, zlib.compress(bytes(9_001 * 9_000), 9)), "too_many_pixels"),
        "bomb.jpg": (huge_jpeg, "too_many_pixels"),
        "bomb.webp": (huge_webp, "too_many_pixels"),
        "bomb.gif": (huge_gif, "too_many_pixels"),
        "bomb.bmp": (huge_bmp[:56], "too_many_pixels"),
        "text-bomb.png": (png(8, 8, zlib.compress(bytes(72)), (b"zTXt", text)), "broken"),
        "flipped.png": (bytes(flipped), "broken"),
        "empty.png": (b"", "empty"),
        "page.png": (page, "format"),
        "archive.jpg": (archive(), "format"),
        "pickle.jpg": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "format"),
        "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        "flat.png": (encode(np.full((24, 20), 7, dtype=np.uint8)), "one_colour"),
        "gone.png": (encode(np.dstack([picture, np.zeros((24, 20), dtype=np.uint8)])), "one_colour"),
        "video.jpg": (b"\x00\x00\x00\x18ftypmp42" + bytes(40), "format"),
        "camera.heic": (b"\x00\x00\x00\x18ftypheic" + bytes(40), "format"),
        "tiff.png": (encode(picture, "TIFF"), "format"),
        "script.png": (b"\x89PNG\r\n\x1a\n" + page, "truncated"),
        # Each takes a decoder over the whole picture once more, for a few bytes of file.
        "scans.jpg": (progressive[:last] + progressive[last:-2] * 150 + b"\xff\xd9", "broken"),
        # Made for a search that takes the square of the row's length: a minute for these, months for 32 MiB.
        "fill.jpg": (good["jpg"][:start_of_data] + b"\xff" * 60_000 + b"\xd0", "truncated"),
        "no-end.jpg": (good["jpg"][:-2], "truncated"),
    }
    for kind, data in good.items():
        files[f"cut.{kind}"] = (data[: len(data) // 2], "truncated")
        files[f"with-archive.{kind}"] = (data + archive(), "trailing_data")
        files[f"with-page.{kind}"] = (data + page, "trailing_data")
    return files


def stray(jpeg: bytes) -> bytes:
    """A JPEG with two bytes before a marker of its header, and before its end."""
    scan = jpeg.index(b"\xff\xda")
    return jpeg[:scan] + b"\x12\x34" + jpeg[scan:-2] + b"\x56\x78" + jpeg[-2:]


def photo() -> bytes:
    """A JPEG of 24 megapixels, as cameras make them."""
    rows = np.linspace(0, 255, 4_000).astype(np.uint8)
    return encode(np.repeat(rows[:, None, None], 6_000, axis=1).repeat(3, axis=2), "JPEG")


@cache
def unusual() -> dict[str, bytes]:
    """Name to a file that is large or odd, and right."""
    side = 4_096
    grey = np.full((side, side), 77, dtype=np.uint8)
    grey[: side // 2] = 33
    picture = np.random.default_rng(2).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    frames = [
        Image.fromarray(np.linspace((value,) * 3, (value + 9,) * 3, 480).astype(np.uint8).reshape(24, 20, 3))
        for value in (10, 200)
    ]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 50}
    return {
        "large-deep.png": encode(grey.astype(np.uint16) * 257),
        "large-cmyk.jpg": encode(Image.fromarray(np.dstack([grey] * 4), "CMYK"), "JPEG"),
        "large.webp": encode(np.dstack([grey] * 3), "WEBP", lossless=True),
        "alpha.png": encode(np.dstack([picture, picture[:, :, 0]])),
        "progressive.jpg": encode(picture, "JPEG", progressive=True),
        "padded.jpg": encode(picture, "JPEG") + bytes(100),
        "animated.png": encode(frames[0], "PNG", **animated),
        "animated.webp": encode(frames[0], "WEBP", lossless=True, **animated),
        # The stream holds far more than the header announces: what is announced is read, and no more.
        "long-stream.png": png(8, 8, zlib.compress(bytes([0, *range(8)]) * 8 + bytes(300 * 2**20), 9)),
        "animated.gif": encode(frames[0], "GIF", **animated),
        "large.bmp": encode(grey, "BMP"),
        "large.gif": encode(grey, "GIF"),
        # Decoders look for the next marker, and so must who looks for the end.
        "stray.jpg": stray(encode(picture, "JPEG")),
        "photo.jpg": photo(),
    }
