"""Image files that this installation reads: formats, extensions and first bytes."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_HAS_AVIF = find_spec("PIL._avif") is not None
_HAS_HEIF = find_spec("pillow_heif") is not None

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"),
    *(("AVIF",) if _HAS_AVIF else ()),
    *(("HEIF",) if _HAS_HEIF else ()),
)
"""Pillow's names of the formats that are decoded."""

_AVIF = frozenset({".avif", ".avifs"})
_HEIF = frozenset({".heic", ".heif", ".hif"})
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib"}
    | {".gif", ".tif", ".tiff"}
    | (_AVIF if _HAS_AVIF else frozenset())
    | (_HEIF if _HAS_HEIF else frozenset())
)
_OTHER_IMAGES = frozenset(
    {".jxl", ".jp2", ".j2k", ".heics", ".psd", ".svg", ".tga", ".ppm", ".pgm", ".dcm"}
    | {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".exr", ".ico"}
)
"""Extensions of images that a person should hear about, though none is decoded."""

_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
)


def reason_unread(extension: str) -> str:
    """Return what an image of this extension needs to be read; "" if it is no image.

    Args:
        extension: in lower case and with its dot.
    """
    if extension in IMAGE_EXTENSIONS:
        return ""
    if extension in _AVIF:
        return "needs a Pillow with AVIF: pip install --upgrade pillow"
    if extension in _HEIF:
        return "needs pillow-heif: pip install pillow-heif"
    if extension in _OTHER_IMAGES:
        return "is not decoded: convert it to PNG or JPEG"
    return ""


def begins_as_image(path: Path) -> bool:
    """Return whether the first bytes of a file are those of a format of FORMATS."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head.startswith(_SIGNATURES):
        # "BM" alone also begins a text: bytes 6 to 9 of a bitmap are zero.
        return not head.startswith(b"BM") or head[6:10] == bytes(4)
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] != b"ftyp":
        return False
    heif = (b"heic", b"heix", b"mif1", b"heim", b"heis")
    return (_HAS_AVIF and head[8:12] in (b"avif", b"avis")) or (
        _HAS_HEIF and head[8:12] in heif
    )


def register_formats() -> None:
    """Make Pillow know the formats of packages beside it; more than once is free."""
    if _HAS_HEIF:
        import_module("pillow_heif").register_heif_opener()
