"""Where a model looks: maps over pictures (arXiv 2010.11929, Figures 6 and 14).

Maps are one number a patch; larger means more, and each is drawn from its own least to
its own greatest value. How far heads look: distance.py.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import (
    ArraySequence,
    check_array,
    check_consistent_length,
    check_image,
    check_images,
    upsample,
)
from vitral.plots.panels import (
    add_colorbar,
    align_pair,
    even_columns,
    make_panels,
    middle_aspect,
    pair_columns,
    set_caption,
    show_image,
)
from vitral.plots.style import Plot, pluralize, shorten, style_context

MOST_PAIRS = 48
MOST_HEADS = 48
HEAT = matplotlib.colormaps["inferno"]
_OPACITY = 0.62


def shade(
    image: ArrayLike, heat: ArrayLike, blur: float = 1.0, darkest: float = 0.1
) -> Float[np.ndarray, "h w 3"]:
    """The picture, dark where the map is low: pixels in 0..1.

    Args:
        image: [height, width, 3], integers 0..255 or floats 0..1.
        heat: [rows, columns], one number a patch.
        blur: standard deviation of the Gaussian over the map, in patches.
        darkest: the brightness where the map is least; above 0 keeps it visible.
    """
    pixels = check_image(image)
    part = upsample(heat, pixels.shape[0], pixels.shape[1], blur)[..., None]
    return pixels * (darkest + (1 - darkest) * part)


def tint(
    image: ArrayLike, heat: ArrayLike, blur: float = 1.0
) -> Float[np.ndarray, "h w 3"]:
    """The picture in grey under colours from dark (low) to yellow (high): 0..1."""
    pixels = check_image(image)
    return blend_heatmap(pixels, upsample(heat, pixels.shape[0], pixels.shape[1], blur))


def blend_heatmap(
    pixels: Float[np.ndarray, "*frames h w 3"], part: Float[np.ndarray, "*frames h w"]
) -> Float[np.ndarray, "*frames h w 3"]:
    """What `tint` makes of pixels and a map of as many pixels, both from 0 to 1."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    colours = HEAT(part)[..., :3]
    return (1 - _OPACITY) * grey[..., None] + _OPACITY * colours


def overlay(
    image: ArrayLike, heat: ArrayLike, *, title: str = "Attention", blur: float = 1.0
) -> Plot:
    """A picture and the same picture, dark where the map is low (Figure 6).

    Args:
        image: [height, width, 3], integers 0..255 or floats 0..1.
        heat: [rows, columns], one number a patch.
        blur: standard deviation of the Gaussian over the map, in patches.

    Raises:
        DataError: a shape or a value that cannot be drawn.
    """
    pixels = check_image(image)
    shaded = shade(pixels, heat, blur)
    with style_context():
        drawn = make_panels(2, 2, pixels.shape[1] / pixels.shape[0], shorten(title, 80))
        for axes, part, name in zip(
            drawn.axes,
            (pixels, shaded),
            ("input", "the map as brightness"),
            strict=True,
        ):
            show_image(axes, part)
            set_caption(axes, name, drawn.letters, quiet=True)
    return Plot(drawn.figure, f"{shorten(title, 80)} over a picture. {_summary(heat)}")


def color_overlay(
    image: ArrayLike, heat: ArrayLike, *, title: str = "Attention", blur: float = 1.0
) -> Plot:
    """A picture and its map in colour, with a colour bar; see `overlay`.

    For dark pictures, on which brightness says little.
    """
    pixels = check_image(image)
    with style_context():
        drawn = make_panels(
            2, 2, pixels.shape[1] / pixels.shape[0], shorten(title, 80), bar=True
        )
        show_image(drawn.axes[0], pixels)
        show_image(drawn.axes[1], tint(pixels, heat, blur))
        set_caption(drawn.axes[0], "input", drawn.letters, quiet=True)
        set_caption(drawn.axes[1], "the map as colour", drawn.letters, quiet=True)
        add_colorbar(
            drawn.figure, drawn.axes[1], HEAT, 0.0, 1.0, "least to greatest value"
        )
    return Plot(
        drawn.figure, f"{shorten(title, 80)} in colour over a picture. {_summary(heat)}"
    )


def gallery(
    images: ArraySequence,
    heats: ArraySequence,
    titles: Sequence[str] | None = None,
    *,
    title: str = "Attention",
    blur: float = 1.0,
) -> Plot:
    """Pairs of picture and map (Figures 6 and 14), at most 48 of them.

    Args:
        images: [height, width, 3] each, of one size or several.
        heats: [rows, columns] each.
        titles: a line over each pair, such as its class.

    Raises:
        DataError: the numbers of images, maps and titles differ, or one of them cannot
            be drawn.
    """
    check_consistent_length("the maps", len(heats), len(images))
    if titles is not None:
        check_consistent_length("the titles", len(titles), len(images))
    parts = check_images(images[:MOST_PAIRS])
    rest = len(images) - len(parts)
    aspect = middle_aspect(parts)
    columns = pair_columns(len(parts), aspect)
    with style_context():
        drawn = make_panels(
            2 * len(parts),
            2 * columns,
            aspect,
            shorten(title, 80),
            note=f"The first {len(parts)} of {len(images)}." if rest else "",
            captions=titles is not None,
            widest=2.1,
            pairs=True,
        )
        for i, part in enumerate(parts):
            left, right = drawn.axes[2 * i], drawn.axes[2 * i + 1]
            show_image(left, part)
            show_image(right, shade(part, heats[i], blur))
            align_pair(drawn.figure, left, right, part)
            if titles is not None:
                left.set_title(
                    shorten(titles[i], 2 * drawn.letters),
                    fontsize=8.5,
                    fontweight="normal",
                    pad=3.5,
                )
    names = [] if titles is None else [shorten(name, 60) for name in titles[:3]]
    return Plot(
        drawn.figure,
        f"{shorten(title, 80)} over {pluralize(len(parts), 'picture')}, each beside "
        f"its input{': first ' + ', '.join(names) if names else ''}. First: "
        f"{_summary(heats[0])}",
    )


def heads(
    image: ArrayLike,
    maps: ArrayLike,
    *,
    title: str = "Attention of the class token",
    blur: float = 0.5,
) -> Plot:
    """The attention of each head over one picture, with its greatest weight.

    Args:
        image: [height, width, 3], integers 0..255 or floats 0..1.
        maps: [heads, rows, columns], weights; numbered from 0.

    Raises:
        DataError: a shape or a value that cannot be drawn.
    """
    pixels = check_image(image)
    weights = check_array(maps, "the maps", "heads", "rows", "columns")
    shown = weights[:MOST_HEADS]
    with style_context():
        drawn = make_panels(
            len(shown) + 1,
            even_columns(len(shown) + 1, 6),
            pixels.shape[1] / pixels.shape[0],
            shorten(title, 80),
            note="The number is the greatest weight of the head, drawn brightest."
            + (
                f" The first {len(shown)} of {len(weights)} heads."
                * (len(shown) < len(weights))
            ),
            widest=2.6,
        )
        show_image(drawn.axes[0], pixels)
        set_caption(drawn.axes[0], "input", drawn.letters, quiet=True)
        for i, (axes, part) in enumerate(zip(drawn.axes[1:], shown, strict=True)):
            show_image(axes, shade(pixels, part, blur))
            set_caption(axes, f"head {i}: {part.max():#.2g}", drawn.letters)
    peaks = weights.max(axis=(1, 2))
    most = int(peaks.argmax())
    return Plot(
        drawn.figure,
        f"{shorten(title, 80)} in {pluralize(len(weights), 'head')} over a picture. "
        "The "
        f"greatest weight, {peaks[most]:.2g}, is in head {most}. "
        f"{_summary(weights[most])}",
    )


def comparison(
    image: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    title: str = "Explanations of one image",
    blur: float = 1.0,
) -> Plot:
    """Several maps of one picture side by side.

    Args:
        maps: {name: [rows, columns]}; the grids may differ.

    Raises:
        DataError: there is no map, or one cannot be drawn.
    """
    if not maps:
        raise DataError("there is no map to compare: give at least one {name: map}.")
    pixels = check_image(image)
    with style_context():
        drawn = make_panels(
            len(maps) + 1,
            even_columns(len(maps) + 1, 5),
            pixels.shape[1] / pixels.shape[0],
            shorten(title, 80),
            widest=2.6,
        )
        show_image(drawn.axes[0], pixels)
        set_caption(drawn.axes[0], "input", drawn.letters, quiet=True)
        for axes, (name, heat) in zip(drawn.axes[1:], maps.items(), strict=True):
            show_image(axes, shade(pixels, heat, blur))
            set_caption(axes, name, drawn.letters)
    parts = " ".join(f"{shorten(name, 60)}: {_summary(h)}" for name, h in maps.items())
    return Plot(
        drawn.figure, f"{shorten(title, 80)}: {pluralize(len(maps), 'map')}. {parts}"
    )


def _summary(heat: ArrayLike) -> str:
    """Where a map is greatest, and how concentrated it is."""
    patches = check_array(heat, "a map", "rows", "columns")
    if not patches.any():
        return "The map is zero everywhere."
    rows, columns = patches.shape
    row, column = np.unravel_index(int(patches.argmax()), patches.shape)
    text = (
        f"Greatest at row {row}, column {column} of {rows} x {columns} patches (from 0)"
    )
    if patches.min() >= 0:
        total = np.sort(patches, axis=None)[::-1].cumsum()
        half = int(np.searchsorted(total, total[-1] / 2)) + 1
        text += f"; half of it on {half} of {patches.size}"
    return text + "."
