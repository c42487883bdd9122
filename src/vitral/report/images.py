"""Pictures that live inside the HTML: figures as SVG, photographs as small JPEG."""

import base64
import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitral import plots

THUMBNAIL_SIDE = 176  # pixels
FRAME_SIDE = 96
_JPEG_QUALITY = 82


class Picture(NamedTuple):
    """An `img` element; the size is in CSS pixels."""

    source: str
    alt: str
    width: int
    height: int


def svg_picture(plot: plots.Plot) -> Picture:
    """A matplotlib figure as an SVG data URI."""
    svg = plots.to_svg(plot.figure).encode()
    # matplotlib writes 72 points an inch; a CSS pixel is 1/96 inch.
    width, height = (round(float(side) * 96) for side in plot.figure.get_size_inches())
    return Picture(_data_uri("image/svg+xml", svg), plot.alt, width, height)


def thumbnail(image: Image.Image, alt: str) -> Picture:
    """A photograph within THUMBNAIL_SIDE squared; tiny ones keep their pixels."""
    return _jpeg_picture(_resize_thumbnail(image), alt)


def tint_thumbnail(
    image: Image.Image, heat: Float[np.ndarray, "rows columns"]
) -> Picture:
    """A thumbnail in grey under the colours of a map, from dark to yellow."""
    small = _resize_thumbnail(image)
    pixels = 255 * plots.tint(np.asarray(small), heat)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    alt = (
        f"What the model looks at in it: most at row {row + 1}, column {column + 1} of "
        f"{heat.shape[0]} × {heat.shape[1]} patches"
        if heat.any()
        else "What the model looks at in it: the map is zero everywhere"
    )
    return _jpeg_picture(Image.fromarray(pixels.round().astype(np.uint8)), alt)


def tint_filmstrip(
    frames: Image.Image, heats: Float[np.ndarray, "frames rows columns"]
) -> Picture:
    """At most eight frames of a clip in a row, and below them the same in grey under
    the colours of a map.

    Args:
        frames: all of the map's frames, side by side.
    """
    wide = frames.width // len(heats)
    each = [
        frames.crop((i * wide, 0, (i + 1) * wide, frames.height)).convert("RGB")
        for i in range(len(heats))
    ]
    for frame in each:
        frame.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
    arrays = [np.asarray(frame) for frame in each]
    pixels = 255 * plots.filmstrip_pixels(arrays, heats, FRAME_SIDE)
    share = heats.sum(axis=(1, 2))
    alt = (
        f"What the model looks at in it: most in frame {int(share.argmax()) + 1} of "
        f"{len(heats)}"
        if heats.any()
        else "What the model looks at in it: the map is zero everywhere"
    )
    return _jpeg_picture(Image.fromarray(pixels.round().astype(np.uint8)), alt)


def _resize_thumbnail(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    factor = THUMBNAIL_SIDE // max(image.size)
    if factor > 1:
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return image


def _jpeg_picture(image: Image.Image, alt: str) -> Picture:
    target = io.BytesIO()
    image.save(target, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return Picture(
        _data_uri("image/jpeg", target.getvalue()), alt, image.width, image.height
    )


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
