"""Files that cost a decoder far more time or memory than they have bytes."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from helpers import measure_child
from photos import photo
from vitral.data import Preprocess
from vitral.data.images import decode
from vitral.data.images.jpeg_scans import MAX_SCANS, count_scans
from vitral.data.images.raster import Raster, scale_to_uint8
from vitral.errors import ImageError

SECONDS, MEGABYTES = 5.0, 700
"""Of one file; without the checks each takes a multiple."""


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def progressive(extra: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG with 10 scans, of which the last is repeated."""
    content = encode(Image.new("RGB", size, (9, 99, 199)), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * extra + content[-2:]


def tiff_pages(count: int) -> bytes:
    """A TIFF of 8 x 8 pixels whose pages share their values."""
    tags = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, 8), (279, 64)]
    out = b"II*\0" + struct.pack("<L", 72) + bytes(range(64))
    page = struct.pack("<H", len(tags))
    page += b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    size = len(page) + 4
    ends = (72 + size * number for number in range(1, count))
    return out + b"".join(page + struct.pack("<L", end) for end in (*ends, 0))


def tiff_of_jpeg(jpeg: bytes, side: int) -> bytes:
    """A TIFF whose one strip is a JPEG."""
    tags = [(256, side), (257, side), (258, 8), (259, 7), (262, 1), (273, 8), (277, 1)]
    tags += [(278, side), (279, len(jpeg))]
    out = b"II*\0" + struct.pack("<L", 8 + len(jpeg)) + jpeg
    out += struct.pack("<H", len(tags))
    return out + b"".join(struct.pack("<HHLL", t, 4, 1, v) for t, v in tags) + bytes(4)


def refused(content: bytes, words: str) -> Callable[[], object]:
    def work() -> None:
        with pytest.raises(ImageError, match=words):
            decode(content)

    return work


@pytest.mark.parametrize("extra", [91, 4000])
def test_a_jpeg_of_many_scans_is_refused(extra: int):
    content = progressive(extra, size=(4000, 2000) if extra > 91 else (64, 48))
    seconds, _ = measure_child(refused(content, "more than 100 scans"))
    assert seconds < SECONDS


def test_a_jpeg_of_usual_scans_is_decoded():
    assert count_scans(progressive(0)) == 10
    assert count_scans(progressive(90)) == MAX_SCANS
    plain = np.asarray(decode(progressive(0)).image)
    np.testing.assert_array_equal(np.asarray(decode(progressive(90)).image), plain)
    assert count_scans(encode(photo(60, 80), "JPEG")) == 1
    restarts = encode(photo(60, 80), "JPEG", restart_marker_blocks=1)
    assert count_scans(restarts) == 1


def test_only_the_scans_of_the_picture_count():
    """A preview inside a segment, and a film behind the picture, have their own."""
    content = encode(photo(60, 80), "JPEG")
    inside = b"\xff\xda" * 9000
    segment = b"\xff\xe5" + struct.pack(">H", len(inside) + 2) + inside
    content = content[:2] + segment + content[2:] + b"\xff\xda" * 9000
    assert count_scans(content) == 1
    assert decode(content).image.size == photo(60, 80).size


def test_a_tiff_of_jpegs_is_a_jpeg():
    small = encode(Image.new("L", (64, 64), 9), "JPEG")
    assert decode(tiff_of_jpeg(small, 64)).image.getpixel((3, 3)) == (9, 9, 9)
    many = encode(Image.new("L", (2000, 2000), 9), "JPEG", progressive=True)
    start = many.rindex(b"\xff\xda")
    many = many[:-2] + many[start:-2] * 2000 + many[-2:]
    seconds, _ = measure_child(refused(tiff_of_jpeg(many, 2000), "more than 100 scans"))
    assert seconds < SECONDS


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_pages_are_not_counted(kind: str):
    if kind == "TIFF":
        content = tiff_pages(40_000)
    else:
        frames = [Image.new("L", (1, 1), 255 * (number % 2)) for number in range(2000)]
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encode(
            frames[0], kind, save_all=True, append_images=frames[1:], **options
        )

    def work() -> None:
        assert decode(content).notes[0] == "first of several frames or pages used"

    assert measure_child(work)[0] < SECONDS


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGB", "RGBA"])
def test_deep_values_are_scaled_in_place(mode: str, tmp_path: Path):
    """32 million values of 16 or 32 bits."""
    if mode in ("RGB", "RGBA"):
        tifffile = pytest.importorskip("tifffile")
        side = 2800 if mode == "RGBA" else 3200
        values = np.full((side, side, len(mode)), 40_000, np.uint16)
        options = {"extrasamples": ["unassalpha"]} if mode == "RGBA" else {}
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", **options)
        content = (tmp_path / "x.tif").read_bytes()
    else:
        kind = "TIFF" if mode == "F" else "PNG"
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(np.full((4000, 8000), 2, dtype))
        content = encode(image, kind if mode == "I;16" else "TIFF")

    def work() -> None:
        decoded = decode(content).image
        assert decoded.mode == "RGB"
        gray = Preprocess(mean=(0.5,), std=(0.5,), antialias=True)
        assert gray(decoded).shape == (1, 224, 224)

    assert measure_child(work)[1] < MEGABYTES


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_the_values_are_those_of_one_piece(dtype: type):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 60_000, (3000, 701, 2)).astype(dtype)
    low, high = 100.0, 50_000.0
    whole = ((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    np.testing.assert_array_equal(
        scale_to_uint8(values, (low, high)), np.rint(whole).astype(np.uint8)
    )
    raster = Raster(values=values, container=(low, high))
    scale = 255 / (high - low)
    expected = ((values.astype(np.float64) - low) * scale).transpose(2, 0, 1)
    found = raster.planes(2, None).numpy()
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_warnings_of_a_file_are_few():
    exif = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in range(40_000, 40_400):
        exif[tag] = "x" * 9
    block = bytearray(b"Exif\0\0" + exif.tobytes())
    # Offsets beyond the end: each is a warning of its own.
    start = block.index(b"x" * 9)
    content = encode(photo(20, 30), "JPEG", exif=bytes(block[:start]))
    assert len(decode(content).notes) <= 8
