"""Filters, position embeddings and feature colours of patches.

After arXiv 2010.11929, figures 7 left (filters), 7 centre (positions) and 10 (several
models). Rows and columns of patches are numbered from 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import (
    ArraySequence,
    PanelGrid,
    add_colorbar,
    check_array,
    check_consistent_length,
    check_range,
    draw_pairs,
    even_columns,
    image_aspect,
    make_panels,
    middle_aspect,
    set_caption,
)
from vitral.plots.style import Plot, format_percent, pluralize, shorten, style_context

MOST_TILES = 14  # a side; of more, every nth is drawn
_SHADES = matplotlib.colormaps["viridis"]  # rises in lightness, so grey print keeps it


@style_context()
def filters(
    tiles: ArrayLike,
    variance: ArrayLike | None = None,
    *,
    title: str = "Principal components of the patch embedding",
) -> Plot:
    """Draw filters as RGB tiles (Figure 7, left).

    Args:
        tiles: [n, height, width, 3] in 0..1.
        variance: [n], the share of the variance that each explains.

    Raises:
        DataError: another shape, or values outside of 0..1.
    """
    colors = _check_colors(tiles, "the filters", "n", "height", "width")
    shares = None if variance is None else check_array(variance, "the variance", "n")
    count = len(colors)
    if shares is not None:
        one = "be one share for each filter"
        check_consistent_length("the variance", len(shares), count, one)
    title = shorten(title, 80)
    note = (
        ""
        if shares is None
        else "Over each: the share of the variance; together "
        f"{format_percent(float(shares.sum()))}."
    )
    grid = PanelGrid(
        count,
        even_columns(count, 10 if count > 40 else 7),
        image_aspect(colors[0]),
        captions=shares is not None,
        widest=0.85,
    )
    panels = make_panels(grid, title, note)
    for i, axes in enumerate(panels.axes):
        axes.imshow(colors[i], interpolation="nearest")
        if shares is not None:
            text = f"{100 * shares[i]:.{0 if shares[i] >= 0.0995 else 1}f} %"
            text = text if shares[i] >= 0.0005 else "< 0.1 %"
            set_caption(axes, text, 12, quiet=True)
    height, width = colors.shape[1:3]
    alt = f"{title}: {pluralize(count, 'tile')} of {height} x {width} pixels."
    if shares is not None:
        alt += (
            f" The first explains {format_percent(float(shares[0]))} of the variance, "
            f"all {format_percent(float(shares.sum()))}."
        )
    return Plot(panels.figure, alt)


def positions(
    similarity: ArrayLike,
    grid: tuple[int, int],
    *,
    title: str = "Position embedding similarity",
) -> Plot:
    """Draw the similarity of each position to all others as a tile (Figure 7, centre).

    Args:
        similarity: [N, N], cosines, in row-major order of the patches.
        grid: rows and columns of patches; of more than 14 a side, every nth is drawn.

    Raises:
        DataError: not [N, N] with N = rows * columns, or not in -1..1.
    """
    return position_panels({"": (similarity, grid)}, title=title)


@style_context()
def position_panels(
    models: Mapping[str, tuple[ArrayLike, tuple[int, int]]],
    *,
    title: str = "Position embedding similarity",
) -> Plot:
    """Draw `positions` of several models side by side (Figure 10).

    Args:
        models: {name: (similarity [N, N], (rows, columns))}.

    Raises:
        DataError: there is no model, or a similarity is not [N, N] of its grid.
    """
    if not models:
        raise DataError("there is no model to draw: give {name: (similarity, grid)}.")
    mosaics = {
        name: _build_mosaic(similarity, grid)
        for name, (similarity, grid) in models.items()
    }
    columns = even_columns(len(mosaics), 3)
    thinned = [
        f"{shorten(name, 40)}{': t' if name else 'T'}iles of every "
        f"{_ordinal(mosaic.stride)} row and column."
        for name, mosaic in mosaics.items()
        if mosaic.stride > 1
    ]
    title = shorten(title, 80)
    panel_grid = PanelGrid(
        len(mosaics),
        columns,
        middle_aspect([mosaic.pixels for mosaic in mosaics.values()]),
        captions=any(mosaics),
        bar=True,
        ticks=0.42,
        widest=4.6,
        tallest=4.2,
    )
    panels = make_panels(panel_grid, title, shorten(" ".join(thinned), 120))
    for axes, (name, mosaic) in zip(panels.axes, mosaics.items(), strict=True):
        _draw_mosaic(axes, mosaic, MOST_TILES if columns == 1 else MOST_TILES // 2)
        if name:
            set_caption(axes, name, panels.letters)
    last, label = panels.axes[columns - 1], "cosine similarity"
    add_colorbar(panels.figure, last, _SHADES, (-1.0, 1.0), label=label)
    parts = [
        f"{shorten(name, 60) + ': ' if name else ''}{mosaic.rows} x {mosaic.columns} "
        f"positions, neighbours in a row {mosaic.neighbours:.2f}, the least similar "
        f"pair {mosaic.least:.2f}."
        for name, mosaic in mosaics.items()
    ]
    return Plot(
        panels.figure,
        f"{title}, a tile of cosines for each position. {' '.join(parts)}",
    )


@dataclass(frozen=True, slots=True)
class _Mosaic:
    pixels: Float[np.ndarray, "height width"]
    rows: int
    columns: int
    stride: int
    gap: int
    neighbours: float
    least: float

    @property
    def first(self) -> int:
        """First row and column that has a tile: a selection keeps the middle."""
        return (self.stride - 1) // 2


def _build_mosaic(similarity: ArrayLike, grid: tuple[int, int]) -> _Mosaic:
    """Arrange all tiles in one picture, with gaps of NaN."""
    cosines = check_array(similarity, "the similarity", "N", "N")
    rows, columns = grid
    if cosines.shape != (rows * columns, rows * columns):
        raise DataError(
            f"the similarity of a grid of {rows} x {columns} positions must be "
            f"{rows * columns} x {rows * columns}: got {cosines.shape[0]} x "
            f"{cosines.shape[1]}; leave out the class token and other prefix tokens."
        )
    claim = "a cosine similarity must lie in -1..1: got"
    check_range(cosines, (-1, 1), claim, tolerance=1e-3)
    stride = -(-max(rows, columns) // MOST_TILES)
    gap = max(round(min(rows, columns) / 8), 1)
    tiles = cosines.reshape(rows, columns, rows, columns)
    near = np.einsum("rcrc->rc", tiles[:, :-1, :, 1:])
    first = (stride - 1) // 2
    shown = tiles[first::stride, first::stride]
    high, wide = shown.shape[:2]
    spaced = np.full((high, rows + gap, wide, columns + gap), np.nan)
    spaced[:, :rows, :, :columns] = shown.transpose(0, 2, 1, 3)
    pixels = spaced.reshape(high * (rows + gap), wide * (columns + gap))
    return _Mosaic(
        pixels[:-gap, :-gap],
        rows,
        columns,
        stride,
        gap,
        float(near.mean()) if near.size else 1.0,
        float(cosines.min()),
    )


def _draw_mosaic(axes: Axes, mosaic: _Mosaic, most_labels: int) -> None:
    axes.imshow(mosaic.pixels, cmap=_SHADES, vmin=-1, vmax=1, interpolation="auto")
    axes.set_anchor("NW")
    for axis, count, name in [
        (axes.yaxis, mosaic.rows, "row"),
        (axes.xaxis, mosaic.columns, "column"),
    ]:
        indices = np.arange(mosaic.first, count, mosaic.stride)
        centers = np.arange(len(indices)) * (count + mosaic.gap) + (count - 1) / 2
        labelled = slice(None, None, -(-len(indices) // most_labels))
        axis.set_ticks(centers[labelled], [str(n) for n in indices[labelled]])
        axis.set_tick_params(length=0, pad=2, labelsize=7.5)
        axis.set_label_text(f"{name} of patches", fontsize=8.5)
        axis.labelpad = 2


@style_context()
def feature_colors(
    images: ArraySequence,
    colors: ArrayLike,
    *,
    title: str = "Patch features as colours",
) -> Plot:
    """Draw pairs of picture and the colours of its patches, at most 48 of them.

    Args:
        images: [height, width, 3] each, of one size or several.
        colors: [B, rows, columns, 3] in 0..1, such as principal components.

    Raises:
        DataError: another shape or number, or values outside of 0..1.
    """
    patches = _check_colors(colors, "the colours", "B", "rows", "columns")
    check_consistent_length("the colours", len(patches), len(images))

    def draw_patches(axes: Axes, i: int, pixels: Float[np.ndarray, "h w 3"]) -> None:
        height, width = pixels.shape[:2]
        # The patches cover the picture, whose sides they may not divide.
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(patches[i], interpolation="nearest", extent=extent)
        axes.set_anchor("NW")

    title = shorten(title, 80)
    figure, count = draw_pairs(images, draw_patches, title, widest=2.6)
    return Plot(
        figure,
        f"{title}: {pluralize(count, 'picture')}, each beside {patches.shape[1]} x "
        f"{patches.shape[2]} coloured patches; like colours, like features.",
    )


def _check_colors(
    values: ArrayLike, name: str, *axes: str
) -> Float[np.ndarray, "n height width 3"]:
    array = check_array(values, name, *axes, "3 colours")
    if array.shape[3] != 3:
        raise DataError(
            f"{name} must be [{', '.join(axes)}, 3 colours]: got the shape "
            f"{list(array.shape)}."
        )
    check_range(array, (0, 1), f"{name} must lie in 0..1: got", tolerance=1e-6)
    return array.clip(0, 1)


def _ordinal(count: int) -> str:
    return {2: "second", 3: "third"}.get(count, f"{count}th")
