"""Attention maps over pictures (arXiv 2010.11929, Figures 6 and 14).

A map is one number a patch, drawn from its own least to its own greatest value.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import (
    ArraySequence,
    PanelGrid,
    Panels,
    add_colorbar,
    check_array,
    check_consistent_length,
    check_image,
    draw_pairs,
    even_columns,
    image_aspect,
    make_panels,
    show_image,
    upsample,
)
from vitral.plots.style import Plot, pluralize, shorten, style_context

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


@style_context()
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
    pixels, title = check_image(image), shorten(title, 80)
    maps = {"the map as brightness": shade(pixels, heat, blur)}
    grid = PanelGrid(2, 2, image_aspect(pixels))
    panels = _draw_maps(grid, pixels, maps, title, quiet=True)
    return Plot(panels.figure, f"{title} over a picture. {_summary(heat)}")


@style_context()
def color_overlay(
    image: ArrayLike, heat: ArrayLike, *, title: str = "Attention", blur: float = 1.0
) -> Plot:
    """Draw a picture and its map in colour, with a colour bar; see `overlay`.

    It suits dark pictures, where brightness says little.
    """
    pixels, title = check_image(image), shorten(title, 80)
    grid = PanelGrid(2, 2, image_aspect(pixels), bar=True)
    maps = {"the map as colour": tint(pixels, heat, blur)}
    panels = _draw_maps(grid, pixels, maps, title, quiet=True)
    label = "least to greatest value"
    add_colorbar(panels.figure, panels.axes[1], HEAT, (0.0, 1.0), label=label)
    return Plot(panels.figure, f"{title} in colour over a picture. {_summary(heat)}")


@style_context()
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
    titles = titles or ()

    def draw_map(axes: Axes, i: int, pixels: Float[np.ndarray, "h w 3"]) -> None:
        show_image(axes, shade(pixels, heats[i], blur))

    title = shorten(title, 80)
    figure, count = draw_pairs(images, draw_map, title, captions=titles, widest=2.1)
    names = ", ".join(shorten(name, 60) for name in titles[:3])
    return Plot(
        figure,
        f"{title} over {pluralize(count, 'picture')}, each beside its input"
        f"{': first ' + names if names else ''}. First: {_summary(heats[0])}",
    )


@style_context()
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
    pixels, title = check_image(image), shorten(title, 80)
    weights = check_array(maps, "the maps", "heads", "rows", "columns")
    peaks = weights.max(axis=(1, 2))
    shown = {
        f"head {i}: {peaks[i]:#.2g}": shade(pixels, part, blur)
        for i, part in enumerate(weights[:MOST_HEADS])
    }
    note = "The number is the greatest weight of the head, drawn brightest."
    if len(shown) < len(weights):
        note += f" The first {len(shown)} of {len(weights)} heads."
    grid = _small_grid(pixels, len(shown), most_columns=6)
    panels = _draw_maps(grid, pixels, shown, title, note)
    most = int(peaks.argmax())
    return Plot(
        panels.figure,
        f"{title} in {pluralize(len(weights), 'head')} over a picture. The greatest "
        f"weight, {peaks[most]:.2g}, is in head {most}. {_summary(weights[most])}",
    )


@style_context()
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
    pixels, title = check_image(image), shorten(title, 80)
    shown = {name: shade(pixels, heat, blur) for name, heat in maps.items()}
    grid = _small_grid(pixels, len(shown), most_columns=5)
    panels = _draw_maps(grid, pixels, shown, title)
    parts = " ".join(f"{shorten(name, 60)}: {_summary(h)}" for name, h in maps.items())
    return Plot(panels.figure, f"{title}: {pluralize(len(maps), 'map')}. {parts}")


def _small_grid(
    pixels: Float[np.ndarray, "h w 3"], maps: int, most_columns: int
) -> PanelGrid:
    columns = even_columns(maps + 1, most_columns)
    return PanelGrid(maps + 1, columns, image_aspect(pixels), widest=2.6)


def _draw_maps(
    grid: PanelGrid,
    pixels: Float[np.ndarray, "h w 3"],
    maps: Mapping[str, Float[np.ndarray, "h w 3"]],
    title: str,
    note: str = "",
    *,
    quiet: bool = False,
) -> Panels:
    """Draw a picture, then the same picture under each map."""
    panels = make_panels(grid, title, note)
    panels.show(0, pixels, "input", quiet=True)
    for i, (caption, picture) in enumerate(maps.items(), start=1):
        panels.show(i, picture, caption, quiet=quiet)
    return panels


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
