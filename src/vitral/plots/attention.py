"""Attention maps over pictures (arXiv 2010.11929, Figures 6 and 14).

A map is one number a patch, drawn from its own least to its own greatest value.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
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
    PanelGrid,
    add_colorbar,
    align_pair,
    even_columns,
    image_aspect,
    make_pairs,
    make_panels,
    set_caption,
)
from vitral.plots.style import Plot, pluralize, shorten, style_context

MOST_PAIRS = 48
MOST_HEADS = 48
HEAT = matplotlib.colormaps["inferno"]
_OPACITY = 0.62


def shade(
    image: ArrayLike, heat: ArrayLike, blur: float = 1.0, darkest: float = 0.1
) -> Float[np.ndarray, "h w 3"]:
    """Return the picture, dark where the map is low: pixels in 0..1.

    Args:
        image: [height, width, 3], integers 0..255 or floats 0..1.
        heat: [rows, columns], one number a patch.
        blur: standard deviation of the Gaussian over the map, in patches.
        darkest: brightness where the map is least; above 0 keeps the picture visible.
    """
    pixels = check_image(image)
    part = upsample(heat, pixels.shape[0], pixels.shape[1], blur)[..., None]
    return pixels * (darkest + (1 - darkest) * part)


def tint(
    image: ArrayLike, heat: ArrayLike, blur: float = 1.0
) -> Float[np.ndarray, "h w 3"]:
    """Return the picture in grey under colours from dark (low) to yellow (high)."""
    pixels = check_image(image)
    return blend_heatmap(pixels, upsample(heat, pixels.shape[0], pixels.shape[1], blur))


def blend_heatmap(
    pixels: Float[np.ndarray, "*frames h w 3"], part: Float[np.ndarray, "*frames h w"]
) -> Float[np.ndarray, "*frames h w 3"]:
    """Blend grey pixels with the colours of a map of equal size, both from 0 to 1."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    colors = HEAT(part)[..., :3]
    return (1 - _OPACITY) * grey[..., None] + _OPACITY * colors


def overlay(
    image: ArrayLike, heat: ArrayLike, *, title: str = "Attention", blur: float = 1.0
) -> Plot:
    """Draw a picture next to the same picture, dark where the map is low (Figure 6).

    Args:
        image: [height, width, 3], integers 0..255 or floats 0..1.
        heat: [rows, columns], one number a patch.
        blur: standard deviation of the Gaussian over the map, in patches.

    Raises:
        DataError: a shape or a value that cannot be drawn.
    """
    pixels = check_image(image)
    shaded = shade(pixels, heat, blur)
    title = shorten(title, 80)
    with style_context():
        panels = make_panels(PanelGrid(2, 2, image_aspect(pixels)), title)
        panels.show(0, pixels, "input", quiet=True)
        panels.show(1, shaded, "the map as brightness", quiet=True)
    return Plot(panels.figure, f"{title} over a picture. {_summary(heat)}")


def color_overlay(
    image: ArrayLike, heat: ArrayLike, *, title: str = "Attention", blur: float = 1.0
) -> Plot:
    """Draw a picture and its map in colour, with a colour bar; see `overlay`.

    It suits dark pictures, where brightness says little.
    """
    pixels = check_image(image)
    title = shorten(title, 80)
    with style_context():
        panels = make_panels(PanelGrid(2, 2, image_aspect(pixels), bar=True), title)
        panels.show(0, pixels, "input", quiet=True)
        panels.show(1, tint(pixels, heat, blur), "the map as colour", quiet=True)
        label = "least to greatest value"
        add_colorbar(panels.figure, panels.axes[1], HEAT, (0.0, 1.0), label=label)
    return Plot(panels.figure, f"{title} in colour over a picture. {_summary(heat)}")


def gallery(
    images: ArraySequence,
    heats: ArraySequence,
    titles: Sequence[str] | None = None,
    *,
    title: str = "Attention",
    blur: float = 1.0,
) -> Plot:
    """Draw pairs of picture and map (Figures 6 and 14), at most 48 of them.

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
    title = shorten(title, 80)
    with style_context():
        panels = make_pairs(
            parts, len(images), title, captions=titles is not None, widest=2.1
        )
        for i, part in enumerate(parts):
            left, right = panels.axes[2 * i], panels.axes[2 * i + 1]
            panels.show(2 * i, part)
            panels.show(2 * i + 1, shade(part, heats[i], blur))
            align_pair(panels.figure, left, right, part)
            if titles is not None:
                set_caption(left, titles[i], 2 * panels.letters)
    names = [] if titles is None else [shorten(name, 60) for name in titles[:3]]
    return Plot(
        panels.figure,
        f"{title} over {pluralize(len(parts), 'picture')}, each beside "
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
    """Draw the attention of each head over one picture, with its greatest weight.

    Args:
        image: [height, width, 3], integers 0..255 or floats 0..1.
        maps: [heads, rows, columns], weights; numbered from 0.

    Raises:
        DataError: a shape or a value that cannot be drawn.
    """
    pixels = check_image(image)
    weights = check_array(maps, "the maps", "heads", "rows", "columns")
    shown = weights[:MOST_HEADS]
    note = "The number is the greatest weight of the head, drawn brightest."
    if len(shown) < len(weights):
        note += f" The first {len(shown)} of {len(weights)} heads."
    maps_by_caption = [
        (f"head {i}: {part.max():#.2g}", part) for i, part in enumerate(shown)
    ]
    title = shorten(title, 80)
    with style_context():
        figure = _draw_maps(
            pixels, maps_by_caption, title, note, blur=blur, most_columns=6
        )
    peaks = weights.max(axis=(1, 2))
    most = int(peaks.argmax())
    return Plot(
        figure,
        f"{title} in {pluralize(len(weights), 'head')} over a picture. The greatest "
        f"weight, {peaks[most]:.2g}, is in head {most}. {_summary(weights[most])}",
    )


def comparison(
    image: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    title: str = "Explanations of one image",
    blur: float = 1.0,
) -> Plot:
    """Draw several maps of one picture side by side.

    Args:
        maps: {name: [rows, columns]}; the grids may differ.

    Raises:
        DataError: there is no map, or one cannot be drawn.
    """
    if not maps:
        raise DataError("there is no map to compare: give at least one {name: map}.")
    pixels = check_image(image)
    title = shorten(title, 80)
    with style_context():
        figure = _draw_maps(
            pixels, list(maps.items()), title, blur=blur, most_columns=5
        )
    parts = " ".join(f"{shorten(name, 60)}: {_summary(h)}" for name, h in maps.items())
    return Plot(figure, f"{title}: {pluralize(len(maps), 'map')}. {parts}")


def _draw_maps(
    pixels: Float[np.ndarray, "h w 3"],
    maps_by_caption: Sequence[tuple[str, ArrayLike]],
    title: str,
    note: str = "",
    *,
    blur: float,
    most_columns: int,
) -> Figure:
    """Draw a picture, then the same picture under each map."""
    count = len(maps_by_caption) + 1
    columns = even_columns(count, most_columns)
    grid = PanelGrid(count, columns, image_aspect(pixels), widest=2.6)
    panels = make_panels(grid, title, note)
    panels.show(0, pixels, "input", quiet=True)
    for i, (caption, heat) in enumerate(maps_by_caption, start=1):
        panels.show(i, shade(pixels, heat, blur), caption)
    return panels.figure


def _summary(heat: ArrayLike) -> str:
    """Describe the greatest value of a map and how concentrated it is."""
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
