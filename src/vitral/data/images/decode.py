"""Decode one image file to RGB: the only decoder of training, evaluation and serving.

Every correction of an image is recorded as a note, every failure is an ImageError.
"""

import io
import logging
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitral.data.images import deep_files
from vitral.data.images.formats import FORMATS, register_formats
from vitral.data.images.jpeg_scans import refuse_scans, refuse_scans_in_tiff
from vitral.data.images.pillow_warnings import collect_warnings, one_line
from vitral.data.images.raster import (
    Raster,
    RasterImage,
    attach_raster,
    scale_to_uint8,
    turn_upright,
)
from vitral.errors import ImageError

# Both log damaged tags of a file, and Python prints what no handler takes.
for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

MAX_PIXELS = 64_000_000

_MAX_WARNINGS = 5
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_PHOTOMETRIC_TAG = 262
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An RGB image and the corrections that decoding applied.

    Where the file holds more than 8 bits or other channels, `image` is a `RasterImage`.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()
    frames: int = 1
    """Number of frames side by side in `image`, if it shows a clip."""


def decode(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode one image file, or its bytes, to RGB as a person would see it.

    Orientation is applied, transparency is composited on white, 16-bit and float
    images are scaled (see `to_rgb`), and the first frame of several is taken.

    Args:
        source: a regular file, or the content of one.
        max_pixels: width times height allowed, read from the header before any pixel
            is decoded. Above 178,956,970 Pillow's own limit refuses first.

    Raises:
        ImageError: the file cannot be read or decoded; the message is the reason in
            one line, without the path.
    """
    content = source if isinstance(source, bytes) else _read(source)
    if not content:
        raise ImageError("the file is empty (0 bytes)")
    with collect_warnings() as warned:
        try:
            decoded = _decode(content, max_pixels)
        except ImageError:
            raise
        except Image.DecompressionBombError:
            raise ImageError(
                "the header claims more than 178,956,970 pixels; at most "
                f"{max_pixels:,} are accepted"
            ) from None
        except UnidentifiedImageError:
            if deep_files.is_tiff(content):
                return _decode_again(content, max_pixels)
            raise ImageError(
                "the content is not a JPEG, PNG, WEBP, BMP, GIF, TIFF or AVIF image, "
                "or its header is broken"
            ) from None
        except Exception as error:
            # Broken files raise nearly anything in Pillow: OSError, SyntaxError,
            # struct.error, ValueError, IndexError, ZeroDivisionError, MemoryError.
            raise ImageError(f"decoding failed: {one_line(error)}") from error
    warned = list(dict.fromkeys(warned))
    if len(warned) > _MAX_WARNINGS:
        warned[_MAX_WARNINGS:] = [f"Pillow warns of {len(warned)} things"]
    return DecodedImage(image=decoded.image, notes=(*decoded.notes, *warned))


def count_pixels(content: bytes, unknown: int) -> int:
    """Return width times height of an image's header, in tens of microseconds.

    Args:
        unknown: returned where Pillow does not know the header.
    """
    register_formats()
    try:
        with (
            collect_warnings(),
            Image.open(io.BytesIO(content), formats=FORMATS) as opened,
        ):
            return opened.width * opened.height
    except Exception:  # broken files raise nearly anything; decoding says which
        return unknown


def _decode_again(content: bytes, max_pixels: int) -> DecodedImage:
    """Decode a TIFF that Pillow does not open."""
    try:
        return _describe_raster(deep_files.read_tiff(content, max_pixels))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"decoding failed: {one_line(error)}") from error


def _describe_raster(raster: Raster) -> DecodedImage:
    """Return a picture for a person, with the raster and a note of what it cannot show.

    The note holds no value of the file, so that equal notes are counted together.
    """
    notes = []
    if raster.opacity:
        notes.append("transparency composited on white")
    elif raster.channels not in (1, 3):
        shown = "three" if raster.channels > 3 else "one"
        notes.append(f"{raster.channels} channels: a picture shows the first {shown}")
    if not raster.is_uint8:
        low, high = raster.container
        promised = low == 0 and high in (1, 65535)
        ends = f"{low:g}..{high:g}" if promised else "its own minimum..maximum"
        notes.append(f"{raster.values.dtype} values scaled from {ends} for a picture")
    return DecodedImage(
        image=attach_raster(raster.picture(), raster), notes=tuple(notes)
    )


def to_rgb(image: Image.Image) -> DecodedImage:
    """Convert a loaded Pillow image of any mode to RGB, never clipping values.

    - 16-bit grey: 0..65535 (12-bit TIFF: 0..4095) becomes 0..255.
    - 32-bit integer grey: as 16-bit if every value is in 0..65535, otherwise the
      image's minimum..maximum becomes 0..255.
    - float grey: 0..1 becomes 0..255 if every value is in 0..1, otherwise the image's
      minimum..maximum does.
    - any transparency: composited on white.

    Raises:
        ImageError: a float image holds values that are not finite.
    """
    mode = image.mode
    if mode.startswith(("I", "F")):
        return _scale_to_uint8(image)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _composite_on_white(image)
    if mode == "RGB":
        return DecodedImage(image=image)
    if mode == "LAB":
        note = "CIELAB (D50) converted to sRGB"
        return DecodedImage(image=lab_to_srgb(image), notes=(note,))
    if mode == "CMYK":
        note = "CMYK converted to RGB without its colour profile"
        return DecodedImage(image=image.convert("RGB"), notes=(note,))
    return DecodedImage(image=image.convert("RGB"))


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Convert by the colour engine, which Pillow's `convert` does not call.

    Raises:
        ImageError: this Pillow is built without it.
    """
    try:
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    except ImportError as error:
        raise ImageError("CIELAB colours need a Pillow with LittleCMS") from error
    assert converted is not None
    return converted


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("not a regular file")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ImageError(f"the file cannot be read: {reason}") from error


def _decode(content: bytes, max_pixels: int) -> DecodedImage:
    register_formats()
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        width, height = opened.size
        if width * height > max_pixels:
            raise ImageError(
                f"the header claims {width} x {height} = {width * height:,} pixels; "
                f"at most {max_pixels:,} are accepted"
            )
        refuse_scans(content)
        notes = []
        # Counting them takes Pillow time that is quadratic in the pages of a TIFF.
        if getattr(opened, "is_animated", False):
            notes.append("first of several frames or pages used")
        # Pillow rotates a TIFF while loading it and then drops the tag.
        tags = getattr(opened, "tag_v2", {})
        refuse_scans_in_tiff(content, tags)
        rotated = tags.get(_ORIENTATION_TAG, 1) in _TRANSPOSE
        if deep_files.needs_bands(tags):
            decoded = _describe_raster(deep_files.read_tiff(content, max_pixels))
            notes += decoded.notes + ("EXIF orientation applied",) * rotated
            return DecodedImage(image=decoded.image, notes=tuple(notes))
        opened.load()
        if deep_files.is_deep_png(content):
            converted = _describe_raster(deep_files.read_deep_png(content))
        else:
            converted = to_rgb(opened)
        notes += converted.notes
        # After load(): a PNG may carry EXIF data behind its pixels.
        try:
            orientation = opened.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:
            orientation = 1
            notes.append("EXIF data is broken and was ignored")
        image = converted.image
        if orientation in _TRANSPOSE:
            turned = image.transpose(_TRANSPOSE[orientation])
            if isinstance(image, RasterImage):
                old = image.raster
                values = turn_upright(old.values, orientation)
                raster = replace(old, values=values)
                turned = attach_raster(turned, raster)
            image = turned
        if rotated or orientation in _TRANSPOSE:
            notes.append("EXIF orientation applied")
        if image is opened:
            # Move the pixels out of the closing file: `copy` would take a fifth of the
            # time of decoding a JPEG.
            image = opened._new(opened.im)
        return DecodedImage(image=image, notes=tuple(notes))


def _scale_to_uint8(image: Image.Image) -> DecodedImage:
    values = np.array(image)[..., None]
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ImageError("the float image holds values that are not finite")
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))
        low, high = 0.0, 4095.0 if bits == (12,) else 65535.0
        note = "16-bit grey scaled to 8 bits for a picture"
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == 0:
            # Pillow inverts such files of 8 bits, and leaves those of 16 as they are.
            values = (int(high) - values.astype(np.int32)).astype(np.uint16)
            note = "16-bit grey, 0 is white: inverted, scaled to 8 bits for a picture"
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high, note = 0.0, 1.0, "float grey scaled from 0..1 for a picture"
    elif image.mode == "I" and low >= 0 and high <= 65535:
        low, high, note = (
            0.0,
            65535.0,
            "integer grey scaled from 0..65535 for a picture",
        )
    else:
        dtype = "float" if image.mode == "F" else "integer"
        note = f"{dtype} grey scaled from its own minimum..maximum for a picture"
    gray = Image.fromarray(scale_to_uint8(values, (low, high))[..., 0])
    raster = Raster(values=values, container=(low, high))
    picture = attach_raster(gray.convert("RGB"), raster)
    return DecodedImage(image=picture, notes=(note,))


def _composite_on_white(image: Image.Image) -> DecodedImage:
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        opaque = rgba.convert("RGB")
        is_rgba = image.mode == "RGBA"
        return DecodedImage(image=_with_opacity(opaque, rgba) if is_rgba else opaque)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "RGBA":
        flat = _with_opacity(flat, rgba)
    return DecodedImage(image=flat, notes=("transparency composited on white",))


def _with_opacity(picture: Image.Image, rgba: Image.Image) -> Image.Image:
    """Keep the four channels, for a model that takes opacity as one of them."""
    values = np.asarray(rgba)
    raster = Raster(values=values, container=(0.0, 255.0), opacity=True)
    return attach_raster(picture, raster)
