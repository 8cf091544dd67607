"""What names say: litter that systems leave, splits that people make, what a file claims to be, which keys are safe."""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "HOLDOUT",
    "IMAGE_ENDINGS",
    "LISTS",
    "MAX_KEY_BYTES",
    "OWN",
    "TRAIN",
    "aside",
    "claims_image",
    "claims_other",
    "controls",
    "is_list",
    "shard_kind",
    "split_of_file",
    "split_of_folder",
    "split_of_value",
    "unsafe",
]

OWN = {
    "drop": "A folder or s3:// prefix of your own: class folders of images, shards, or a list of files and labels.",
    "parquet": "The same for published data: classes in their declared order, and all rows as they are.",
}
"""Names of datasets that are followed by an address, and what they mean."""

TRAIN = 0
HOLDOUT = 1

MAX_KEY_BYTES = 1024
"""Longest key, as in S3."""

IMAGE_ENDINGS = frozenset(
    "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff heic heif avif jxl jp2 j2k ico svg psd ppm pgm pbm pnm tga"
    " dng cr2 cr3 nef arw orf rw2 raf".split()
)
"""Endings by which a file claims to be an image, whether it can be read or not."""

LISTS = ("index.parquet", "index.csv", "metadata.parquet", "metadata.csv", "metadata.jsonl")
"""Files that name images and their labels: this project's own form, and that of Hugging Face's imagefolder."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "holdout"), HOLDOUT),
}
# training_set, test-images, train2017 and the like; the words that follow say nothing else.
_WORDS = "|".join(sorted(_SPLITS, key=len, reverse=True))
_FOLDER = re.compile(rf"({_WORDS})(?:[-_. ]?(?:set|data|images|imgs|split|\d+))*")
_FILE = re.compile(rf"({_WORDS})(?![a-z])")
_SHARDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "tar"}

# What file managers, cameras, NAS boxes, archivers and version control leave beside people's files, in lower case.
_LITTER = frozenset(
    "@eadir #recycle @recycle @__thumb .@__thumb __macosx .appledouble .ds_store .spotlight-v100 .trashes .fseventsd"
    " .temporaryitems .apdisk thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini $recycle.bin picasa.ini .picasa.ini"
    " .ipynb_checkpoints __pycache__ .git .gitattributes .gitignore .svn .hg .cache .thumbnails lost+found".split()
) | {"system volume information", "icon\r", "zbthumbnail.info"}
_LITTER_STARTS = ("._", "synophoto_thumb_", "synofile_thumb_", ".trash-", ".nfs", ".fuse_hidden", "~$")
# Endings of files that are certainly no images; what has none of these is judged by its content.
_OTHER_ENDINGS = frozenset(
    "txt md rst csv tsv json jsonl xml yaml yml toml ini cfg html htm css js py ipynb sh bat r m c cpp h java log pdf"
    " doc docx xls xlsx ppt pptx odt ods zip gz tgz bz2 xz 7z rar tar iso db sqlite mdb npy npz mat pkl pt pth h5 hdf5"
    " onnx tfrecord lmdb lock bib tex url lnk exe dll so aae xmp thm ini wav mp3 mp4 mov avi mkv webm parquet arrow"
    " md5 sha1 sha256 license".split()
)
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# They turn the order of the text that follows, and so make a name look like another one.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def claims_image(key: str) -> bool:
    """Whether a file's name ends as images do."""
    return _ending(key.rpartition("/")[2]) in IMAGE_ENDINGS


def claims_other(key: str) -> bool:
    """Whether a file's name ends as files do that are certainly no images."""
    return _ending(key.rpartition("/")[2]) in _OTHER_ENDINGS


def shard_kind(key: str) -> str | None:
    """``parquet``, ``arrow`` or ``tar`` if a file's name ends so, in any case; None for others."""
    return next((kind for ending, kind in _SHARDS.items() if key.lower().endswith(ending)), None)


def is_list(key: str) -> bool:
    """Whether a file names images and their labels, by its name."""
    return key.rpartition("/")[2].lower() in LISTS


def aside(key: str) -> str | None:
    """Why a file is no part of anybody's data by its name: ``litter``, ``hidden`` or ``note``; None if it is data.

    Names that begin with ``_`` are notes (``_READY.json``, ``_SUCCESS``) unless the file claims to be an image or a
    shard: cameras write ``_MG_0001.jpg``.

    Args:
        key: A key relative to the drop; with a slash at its end for a folder.
    """
    parts = key.rstrip("/").split("/")
    for part in parts:
        low = part.lower()
        if low in _LITTER or low.startswith(_LITTER_STARTS):
            return "litter"
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    if not key.endswith("/") and not claims_image(key) and not shard_kind(key) and not is_list(key):
        if any(part.startswith("_") for part in parts):
            return "note"
    return None


def split_of_folder(name: str) -> int | None:
    """``TRAIN`` or ``HOLDOUT`` if a folder's name is one that people give to a split, else None."""
    found = _FOLDER.fullmatch(name.strip().lower())
    return _SPLITS[found[1]] if found else None


def split_of_file(name: str) -> int | None:
    """``TRAIN`` or ``HOLDOUT`` if a file's name begins with that of a split, else None."""
    found = _FILE.match(name.strip().lower())
    return _SPLITS[found[1]] if found else None


def split_of_value(text: str) -> int | None:
    """``TRAIN`` or ``HOLDOUT`` for a value of a column of splits, else None."""
    return _SPLITS.get(text.strip().lower())


def controls(text: str) -> bool:
    """Whether a text holds what must reach neither a terminal nor a file's name.

    These are control characters, line separators, characters that turn the order of a text, and what was no UTF-8.
    Spaces and joiners of any script are fine.
    """
    if text.isprintable():
        return False
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _TURNING for c in text)


def unsafe(key: str) -> str | None:
    """Why a key must not be followed, or None.

    Args:
        key: A key relative to the drop, as listed or as a list of labels names it.
    """
    if not key:
        return "empty"
    if controls(key):
        return "control characters, or text that is not UTF-8"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"longer than {MAX_KEY_BYTES} bytes"
    if key.startswith("/") or _SCHEME.match(key) or _DRIVE.match(key):
        return "an absolute address; keys are relative to the drop"
    if "\\" in key:
        return "a backslash; folders are separated by '/'"
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        return "a component that is empty, '.' or '..'"
    return None
