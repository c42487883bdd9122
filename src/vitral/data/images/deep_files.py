"""Read files that Pillow cuts to 8 bits or three channels, or cannot open.

PNG of 16-bit colour; TIFF of several bands, or of types that Pillow does not know, by
tifffile.
"""

import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vitral.data.images.raster import Raster, ValueRange, turn_upright
from vitral.errors import ImageError

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ALPHA = (1, 2)
"""Values of TIFF's ExtraSamples that mean opacity."""
_RGB, _CMYK, _YCBCR, _CIELAB = 2, 5, 6, 8
_UNREAD = {8: "CIELAB", 9: "ICC Lab", 10: "ITU Lab", 32844: "LogL", 32845: "LogLuv"}
"""Colours that are no red, green and blue, by the number of their photometric tag."""
"""Values of TIFF's PhotometricInterpretation."""
_DEFLATE = (8, 32946)


def is_deep_png(content: bytes) -> bool:
    """Return whether a PNG has 16 bits of colour, which Pillow cuts to 8."""
    return content[:8] == _PNG and content[24:25] == b"\x10" and content[25] in (2, 6)


def read_deep_png(content: bytes) -> Raster:
    """Return the values of a 16-bit PNG with colour."""
    high, low = (_read_bytes(content, order) for order in ("B", "L"))
    values = high.astype(np.uint16)
    values <<= 8
    values |= low
    return Raster(values=values, container=(0.0, 65535.0), opacity=values.shape[2] == 4)


def _read_bytes(content: bytes, order: str) -> np.ndarray:
    """Return the first byte of each value; in the order "L" Pillow takes the second."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
        opened.tile = [
            tile._replace(args=str(tile.args).replace(";16B", f";16{order}"))
            for tile in opened.tile
        ]
        return np.asarray(opened)


def is_tiff(content: bytes) -> bool:
    """Return whether the first bytes are those of a TIFF."""
    return content[:4] in _TIFF


def needs_bands(tags: Mapping[int, Any]) -> bool:
    """Return whether Pillow would lose values of a TIFF that it opens."""
    photometric, samples = tags.get(262), tags.get(277, 1)
    if photometric in (_CMYK, _YCBCR, _CIELAB) or samples == 1:
        return False
    extra, bits = (as_tuple(tags.get(number)) for number in (338, 258))
    colours = 3 if photometric == _RGB else 1
    opacity = int(extra[:1] in [(kind,) for kind in _ALPHA])
    return bool(samples > colours + opacity or max(bits, default=1) > 8)


def as_tuple(value: Any) -> tuple[int, ...]:
    """Return the values of a tag, of which Pillow gives one alone as a number."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def read_tiff(content: bytes, max_pixels: int) -> Raster:
    """Return the values of the first page, turned upright.

    Raises:
        ImageError: the page is too large, compressed in a way that needs another
            program, or its values are no numbers.
    """
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as file:
        page: Any = file.pages.first
        height, width = int(page.imagelength), int(page.imagewidth)
        if height * width > max_pixels:
            raise ImageError(
                f"the header claims {width} x {height} = {height * width:,} pixels; "
                f"at most {max_pixels:,} are accepted"
            )
        if page.dtype is None or page.dtype.kind not in "uif":
            raise ImageError(f"its values are of the type {page.dtype}, not numbers")
        if int(page.photometric) in _UNREAD:
            colours = _UNREAD[int(page.photometric)]
            raise ImageError(
                f"its colours are {colours} of {page.bitspersample} bits, which is not "
                "read: write it as RGB"
            )
        if page.compression in _DEFLATE:
            _refuse_bomb(content, page)
        try:
            values = page.asarray()
        except ValueError as error:
            raise ImageError(
                f"its compression {page.compression.name} cannot be read here: "
                f"{' '.join(str(error).split())}. Write it without compression, or "
                "with deflate"
            ) from error
        if page.axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
        values = values.reshape(height, width, -1)
        orientation = getattr(page.tags.get(274), "value", 1)
        extra = tuple(page.extrasamples or ())
    return Raster(
        values=turn_upright(values, int(orientation)),
        container=container_range(values),
        opacity=extra[-1:] in [(kind,) for kind in _ALPHA],
    )


def container_range(values: np.ndarray) -> ValueRange:
    """Return the range that the type of the values promises.

    Wide integers and floats promise none: 0..65535 or 0..1 where all values lie
    inside, else their own.

    Raises:
        ImageError: values are not finite.
    """
    if values.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(values.dtype).max)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():  # NaN is the least and the largest
        raise ImageError("the float image holds values that are not finite")
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    return (0.0, top) if low >= 0 and high <= top else (low, high)


def _refuse_bomb(content: bytes, page: Any) -> None:
    """Refuse a strip that holds more than its place in the page."""
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        decoder = zlib.decompressobj()
        decoder.decompress(content[offset : offset + count], page.nbytes + 1)
        if decoder.unconsumed_tail:
            raise ImageError("a strip holds more values than the page has")
