"""What a file is, by its first bytes, and what to do about it if it is no image that can be read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["READABLE", "Sniffed", "sniff"]

READABLE = "JPEG, PNG, WebP, GIF or BMP"
"""The formats that are decoded, as messages name them."""

_CONVERT = "Convert it to PNG or JPEG."
_UNPACK = "Unpack it: one folder of images per class."
_AGAIN = "Download it again."
_LEAVE = "Leave it out."


@dataclass(frozen=True, kw_only=True, slots=True)
class Sniffed:
    """What a file is.

    Attributes:
        name: What it is, with an article ("a HEIC image").
        kind: ``jpeg``, ``png``, ``webp``, ``gif`` or ``bmp`` if it is an image that is decoded; else empty.
        advice: What to do about it; empty for an image that is decoded.
        image: Whether it is an image at all.
        known: Whether its first bytes say anything.
    """

    name: str
    kind: str = ""
    advice: str = ""
    image: bool = False
    known: bool = True


def _decoded(kind: str, name: str) -> Sniffed:
    return Sniffed(name=name, kind=kind, image=True)


def _image(name: str) -> Sniffed:
    return Sniffed(name=name, advice=_CONVERT, image=True)


_FIRST: tuple[tuple[bytes, Sniffed], ...] = (
    (b"\xff\xd8\xff", _decoded("jpeg", "a JPEG image")),
    (b"\x89PNG\r\n\x1a\n", _decoded("png", "a PNG image")),
    (b"GIF87a", _decoded("gif", "a GIF image")),
    (b"GIF89a", _decoded("gif", "a GIF image")),
    (b"II*\x00", _image("a TIFF image or a camera's raw file")),
    (b"MM\x00*", _image("a TIFF image or a camera's raw file")),
    (b"II+\x00", _image("a BigTIFF image")),
    (b"\xff\x0a", _image("a JPEG XL image")),
    (b"\x00\x00\x00\x0cJXL ", _image("a JPEG XL image")),
    (b"\x00\x00\x00\x0cjP  ", _image("a JPEG 2000 image")),
    (b"\xff\x4f\xff\x51", _image("a JPEG 2000 image")),
    (b"\x00\x00\x01\x00", _image("an icon (ICO)")),
    (b"8BPS", _image("a Photoshop file")),
    (b"FUJIFILMCCD-RAW", _image("a camera's raw file")),
    (b"<svg", _image("an SVG drawing")),
    (b"version https://git-lfs", Sniffed(name="a Git LFS pointer and no content", advice="Run `git lfs pull` first.")),
    (b"<!doctype html", Sniffed(name="an HTML page", advice=_AGAIN)),
    (b"<html", Sniffed(name="an HTML page", advice=_AGAIN)),
    (b"<?xml", Sniffed(name="an XML document", advice=_LEAVE)),
    (b"<error>", Sniffed(name="a store's error message", advice=_AGAIN)),
    (b"%PDF", Sniffed(name="a PDF document", advice="Store its pictures as PNG or JPEG.")),
    (b"PK\x03\x04", Sniffed(name="a ZIP archive", advice=_UNPACK)),
    (b"\x1f\x8b", Sniffed(name="a gzip archive", advice=_UNPACK)),
    (b"Rar!", Sniffed(name="a RAR archive", advice=_UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Sniffed(name="a 7z archive", advice=_UNPACK)),
    (b"PAR1", Sniffed(name="a Parquet file", advice="Give it a name that ends in .parquet.")),
    (b"ARROW1", Sniffed(name="an Arrow file", advice="Write it as Parquet.")),
    (b"\x93NUMPY", Sniffed(name="a NumPy array", advice="Store its pictures as PNG.")),
    (b"\x89HDF", Sniffed(name="an HDF5 file", advice="Store its pictures as PNG.")),
    (b"\x80\x02", Sniffed(name="a pickle, which is a program", advice=_LEAVE)),
    (b"\x80\x03", Sniffed(name="a pickle, which is a program", advice=_LEAVE)),
    (b"\x80\x04", Sniffed(name="a pickle, which is a program", advice=_LEAVE)),
    (b"\x80\x05", Sniffed(name="a pickle, which is a program", advice=_LEAVE)),
    (b"\x00\x05\x16\x07", Sniffed(name="macOS's notes on another file (AppleDouble)", advice=_LEAVE)),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    b"crx ": "a camera's raw file",
}
_BITMAP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_HEAD = 4_096


def sniff(data: bytes) -> Sniffed:
    """What a file is; the name that it has is not looked at.

    Args:
        data: The file, or its first 4,096 bytes.
    """
    head = bytes(data[:_HEAD])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _decoded("webp", "a WebP image")
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return _decoded("bmp", "a BMP image")
    if head[4:8] == b"ftyp":
        name = _BRANDS.get(head[8:12])
        return _image(name) if name else Sniffed(name="a video", advice=_LEAVE)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    low = text[:32].lower()
    for first, found in _FIRST:
        if head.startswith(first) or (first.startswith(b"<") and low.startswith(first)):
            return _image("an SVG drawing") if low.startswith(b"<?xml") and b"<svg" in head.lower() else found
    if head[257:262] == b"ustar":
        return Sniffed(name="a tar archive", advice=_UNPACK)
    if head[128:132] == b"DICM":
        return _image("a DICOM image")
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return _image("a Netpbm image")
    return _unknown(head, text)


def _unknown(head: bytes, text: bytes) -> Sniffed:
    if not head.strip(b"\x00"):
        return Sniffed(name="nothing but zeros, as of a copy that was cut off", advice="Copy it again.", known=False)
    try:
        readable = text[:256].decode("utf-8", errors="strict" if len(text) < 256 else "ignore")
    except UnicodeDecodeError:
        readable = "\x00"
    if readable and all(c.isprintable() or c.isspace() for c in readable):
        return Sniffed(name="text", advice=_LEAVE)
    return Sniffed(name=f"a file that begins with {head[:8].hex(' ')}", advice=_CONVERT, known=False)
