"""Pictures inside the HTML: figures as SVG, photographs as small JPEG."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitral import plots

THUMBNAIL_SIDE = 176  # pixels
FRAME_SIDE = 96
_JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Picture:
    """An `img` element; the size is in CSS pixels."""

    source: str
    alt: str
    width: int
    height: int
    narrow: "Picture | None" = None
    """The same for a screen that the picture would be shrunk on."""


def svg_picture(plot: plots.Plot, narrow: plots.Plot | None = None) -> Picture:
    """Return a matplotlib figure as an SVG data URI.

    Args:
        narrow: the figure as it is drawn for narrow screens.
    """
    svg = plots.to_svg(plot.figure).encode()
    # matplotlib writes 72 points an inch; a CSS pixel is 1/96 inch.
    width, height = (round(float(side) * 96) for side in plot.figure.get_size_inches())
    small = None if narrow is None else svg_picture(narrow)
    return Picture(data_uri("image/svg+xml", svg), plot.alt, width, height, small)


def thumbnail(image: Image.Image, alt: str) -> Picture:
    """Return a photograph within THUMBNAIL_SIDE squared; enlarge tiny ones exactly."""
    return _jpeg_picture(_resize_thumbnail(image), alt)


def tint_thumbnail(
    image: Image.Image, heat: Float[np.ndarray, "rows columns"]
) -> Picture:
    """Return a grey thumbnail under the colours of a map, from dark to yellow."""
    pixels = plots.tint(np.asarray(_resize_thumbnail(image)), heat)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    rows, columns = heat.shape
    most = f"at row {row + 1}, column {column + 1} of {rows} × {columns} patches"
    return _map_picture(pixels, most if heat.any() else "")


def tint_filmstrip(
    frames: Image.Image, heats: Float[np.ndarray, "frames rows columns"]
) -> Picture:
    """Return at most eight frames of a clip, above the same in grey under a map.

    Args:
        frames: all frames of the map, side by side.
    """
    width = frames.width // len(heats)
    arrays = []
    for i in range(len(heats)):
        frame = frames.crop((i * width, 0, (i + 1) * width, frames.height))
        frame = frame.convert("RGB")
        frame.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
        arrays.append(np.asarray(frame))
    pixels = plots.filmstrip_pixels(arrays, heats, FRAME_SIDE)
    share = heats.sum(axis=(1, 2))
    most = f"in frame {int(share.argmax()) + 1} of {len(heats)}"
    return _map_picture(pixels, most if heats.any() else "")


def _map_picture(pixels: Float[np.ndarray, "height width 3"], most: str) -> Picture:
    text = f"most {most}" if most else "the map is zero everywhere"
    image = Image.fromarray((255 * pixels).round().astype(np.uint8))
    return _jpeg_picture(image, f"What the model looks at in it: {text}")


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
        data_uri("image/jpeg", target.getvalue()), alt, image.width, image.height
    )


def data_uri(media_type: str, content: bytes) -> str:
    """Return the content as a base64 data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
