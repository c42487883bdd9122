"""Grids of pictures, placed in inches, with a line of text over each."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitral.plots.primitives.arrays import ArraySequence, check_images
from vitral.plots.style import FAINT, FULL_WIDTH, INK, QUIET, new_figure, shorten

MOST_PAIRS = 48
MARGIN = 0.14  # all sizes are inches
_GAP = 0.12
_CAPTION = 0.24
_TITLE = 0.34
_NOTE = 0.24
_BAR = 0.95
_NARROWEST = 3.4
_LETTER = 0.072


class Canvas:
    """A figure without a layout engine: its elements are placed in inches."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.figure = new_figure(width, height)
        self.figure.set_layout_engine("none")
        self.width, self.height = width, height
        self.add_text(MARGIN, 0.1, title, va="top", fontsize=10.5, fontweight="bold")

    def add_text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write a text at inches from the top left."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def add_axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add axes without ticks and frame; `x` and `y` are their top left corner."""
        bounds = (
            x / self.width,
            1 - (y + height) / self.height,
            width / self.width,
            height / self.height,
        )
        return _hide_axes(self.figure.add_axes(bounds))


@dataclass(frozen=True, slots=True)
class PanelGrid:
    """The arrangement of `count` panels; sizes are inches."""

    count: int
    columns: int
    aspect: float
    """Width over height of a panel."""
    _: KW_ONLY
    captions: bool = True  # room for a line of text over each row
    heading: bool = False  # room for one over the first row only
    bar: bool = False  # room for a colour bar on the right
    widest: float = 3.6
    tallest: float = 3.6
    pairs: bool = False  # columns 2n and 2n + 1 are closer than the others
    ticks: float = 0.0  # room on the left of each panel, and a little less below

    def column_gaps(self) -> Float[np.ndarray, " gaps"]:
        """Return the widths between the columns."""
        gaps = np.full(self.columns - 1, _GAP)
        if self.pairs:
            gaps[::2] = 0.03
            gaps[1::2] = 0.2
        return gaps


@dataclass(frozen=True, slots=True)
class Panels:
    """A figure and its axes, row by row; `letters` fit over one of them."""

    figure: Figure
    axes: list[Axes]
    letters: int

    def show(
        self,
        index: int,
        pixels: Float[np.ndarray, "h w 3"],
        caption: str = "",
        *,
        quiet: bool = False,
    ) -> None:
        """Draw a picture in a panel, under a caption if there is one."""
        show_image(self.axes[index], pixels)
        if caption:
            set_caption(self.axes[index], caption, self.letters, quiet)


def make_panels(grid: PanelGrid, title: str, note: str = "") -> Panels:
    """Build a figure of axes without frames; the note is a quiet line at the foot."""
    rows = -(-grid.count // grid.columns)
    gaps, ticks, bar = grid.column_gaps(), grid.ticks, _BAR * grid.bar
    room = FULL_WIDTH - 2 * MARGIN - bar - gaps.sum() - ticks * grid.columns
    width = min(room / grid.columns, grid.widest, grid.tallest * grid.aspect)
    height = width / grid.aspect
    below = 0.72 * ticks
    line = _CAPTION if grid.captions else 0.0
    first = _TITLE + _CAPTION * grid.heading
    total_height = first + MARGIN + rows * (height + line + below) + (rows - 1) * _GAP
    total_height += _NOTE if note else 0.0
    letters = 0.098 * len(title), 0.07 * len(note), _NARROWEST
    used = 2 * MARGIN + grid.columns * (width + ticks) + gaps.sum() + bar
    total_width = float(max(used, *(min(x + 0.3, FULL_WIDTH) for x in letters)))
    canvas = Canvas(total_width, total_height, title)
    if note:
        canvas.add_text(MARGIN, total_height - 0.09, note, fontsize=8.5, color=QUIET)
    left = MARGIN + np.concatenate([[ticks], ticks + (ticks + width + gaps).cumsum()])
    axes = []
    for i in range(grid.count):
        row, column = divmod(i, grid.columns)
        top = first + line * (row + 1) + row * (height + below + _GAP)
        axes.append(canvas.add_axes(left[column], top, width, height))
    return Panels(canvas.figure, axes, max(int(width / _LETTER), 4))


def draw_pairs(
    images: ArraySequence,
    draw_right: Callable[[Axes, int, Float[np.ndarray, "h w 3"]], None],
    title: str,
    *,
    captions: Sequence[str] = (),
    widest: float,
) -> tuple[Figure, int]:
    """Draw each of the first 48 pictures beside a panel that `draw_right` fills.

    Returns:
        The figure, whose note says if there are more pictures, and their number in it.
    """
    pictures = check_images(images[:MOST_PAIRS])
    count, aspect = len(pictures), middle_aspect(pictures)
    grid = PanelGrid(
        2 * count,
        2 * _pair_columns(count, aspect),
        aspect,
        captions=len(captions) > 0,
        widest=widest,
        pairs=True,
    )
    note = f"The first {count} of {len(images)}." if len(images) > count else ""
    panels = make_panels(grid, title, note)
    for i, pixels in enumerate(pictures):
        left, right = panels.axes[2 * i : 2 * i + 2]
        show_image(left, pixels)
        draw_right(right, i, pixels)
        _align_pair(panels.figure, left, right, pixels)
    for left, caption in zip(panels.axes[::2], captions, strict=False):
        set_caption(left, caption, 2 * panels.letters)
    return panels.figure, count


def _hide_axes(axes: Axes) -> Axes:
    """Remove the ticks and the frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def set_caption(axes: Axes, text: str, letters: int, quiet: bool = False) -> None:
    """Write one line over a panel, shortened to its width."""
    color = QUIET if quiet else INK
    axes.set_title(
        shorten(text, letters), fontsize=8.5, fontweight="normal", color=color, pad=3.5
    )


def show_image(axes: Axes, pixels: Float[np.ndarray, "h w 3"]) -> None:
    """Draw a picture; one of another shape is at the top left of its panel."""
    axes.imshow(pixels, aspect="equal", interpolation="auto", vmin=0, vmax=1)
    axes.set_anchor("NW")


def _align_pair(
    figure: Figure, left: Axes, right: Axes, pixels: Float[np.ndarray, "h w 3"]
) -> None:
    """Move the right panel next to a picture that is narrower than the left panel."""
    box, second = left.get_position(True), right.get_position(True)
    across, down = figure.get_size_inches()
    width = box.height * down * pixels.shape[1] / pixels.shape[0] / across
    x = second.x0 - max(box.width - width, 0)
    right.set_position((x, second.y0, second.width, second.height))


def add_colorbar(
    figure: Figure,
    axes: Axes,
    shades: Colormap,
    limits: tuple[float, float],
    *,
    label: str,
) -> None:
    """Add a colour bar on the right, as high as `axes` but at most 2.2 inches."""
    width, height = figure.get_size_inches()
    box = axes.get_position()
    tall = min(box.height, 2.2 / height)
    bounds = (1 - 0.8 / width, box.y1 - tall, 0.13 / width, tall)
    bar = figure.colorbar(
        ScalarMappable(Normalize(*limits), shades), cax=figure.add_axes(bounds)
    )
    bar.outline.set_edgecolor(FAINT)
    bar.ax.tick_params(length=0, labelsize=8)
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.set_label(label, fontsize=8, color=QUIET)


def image_aspect(pixels: Float[np.ndarray, "..."]) -> float:
    """Return width over height."""
    return pixels.shape[1] / pixels.shape[0]


def middle_aspect(pictures: Sequence[Float[np.ndarray, "..."]]) -> float:
    """Return width over height of the panels that suit pictures of several shapes."""
    ratios = [image_aspect(image) for image in pictures]
    return float(np.clip(np.exp(np.mean(np.log(ratios))), 0.2, 6.0))


def even_columns(count: int, most: int) -> int:
    """Return the columns, at most `most`, that leave the fewest panels empty."""
    fit = range(max((most + 1) // 2, 1), most + 1)
    return min(count, min(fit, key=lambda n: (-count % n, -n)))


def _pair_columns(count: int, aspect: float) -> int:
    """Return the pairs in a row: an even grid for few, a full row for many."""
    most = 4 if aspect < 1.2 else 3
    return most if count > 8 else even_columns(count, most)
