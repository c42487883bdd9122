"""Pictures of one height side by side, tightly, with a line of text over each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitral.plots.style import FAINT, FULL_WIDTH, INK, QUIET, new_figure, shorten

_MARGIN = 0.14  # all sizes are inches
_GAP = 0.12
_CAPTION = 0.24
_TITLE = 0.34
_NOTE = 0.24
_BAR = 0.95
_NARROWEST = 3.4
_LETTER = 0.072


class Panels(NamedTuple):
    """The figure and its axes, row by row; `letters` fit over one of them."""

    figure: Figure
    axes: list[Axes]
    letters: int


def make_panels(
    count: int,
    columns: int,
    aspect: float,
    title: str,
    *,
    note: str = "",
    captions: bool = True,
    heading: bool = False,
    bar: bool = False,
    widest: float = 3.6,
    tallest: float = 3.6,
    pairs: bool = False,
    ticks: float = 0.0,
) -> Panels:
    """`count` axes without frames in `columns` columns.

    Args:
        aspect: width over height of each.
        note: a quiet line at the foot.
        captions: room for a line of text over each row.
        heading: room for one over the first row only.
        bar: room for a colour bar on the right.
        ticks: room on the left of each, inches, and a little less below.
        pairs: columns 2n and 2n + 1 stand closer than the others.
    """
    rows = -(-count // columns)
    gaps = np.full(columns - 1, _GAP)
    if pairs:
        gaps[::2] = 0.03
        gaps[1::2] = 0.2
    room = FULL_WIDTH - 2 * _MARGIN - _BAR * bar - gaps.sum() - ticks * columns
    wide = min(room / columns, widest, tallest * aspect)
    high = wide / aspect
    below = 0.72 * ticks
    lines = _CAPTION if captions else 0.0
    first = _TITLE + _CAPTION * heading
    total_high = first + _MARGIN + rows * (high + lines + below) + (rows - 1) * _GAP
    total_high += _NOTE if note else 0.0
    letters = 0.098 * len(title), 0.07 * len(note), _NARROWEST
    used = 2 * _MARGIN + columns * (wide + ticks) + gaps.sum() + _BAR * bar
    total_wide = float(max(used, *(min(x + 0.3, FULL_WIDTH) for x in letters)))
    figure = new_figure(total_wide, total_high)
    figure.set_layout_engine("none")
    figure.text(
        _MARGIN / total_wide,
        1 - 0.1 / total_high,
        title,
        va="top",
        fontsize=10.5,
        fontweight="bold",
    )
    if note:
        figure.text(
            _MARGIN / total_wide, 0.09 / total_high, note, fontsize=8.5, color=QUIET
        )
    left = _MARGIN + np.concatenate([[ticks], ticks + (ticks + wide + gaps).cumsum()])
    axes = []
    for i in range(count):
        row, column = divmod(i, columns)
        top = first + lines * (row + 1) + row * (high + below + _GAP)
        place = (
            left[column] / total_wide,
            1 - (top + high) / total_high,
            wide / total_wide,
            high / total_high,
        )
        axes.append(hide_axes(figure.add_axes(place)))
    return Panels(figure, axes, max(int(wide / _LETTER), 4))


def hide_axes(axes: Axes) -> Axes:
    """No ticks and no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def set_caption(axes: Axes, text: str, letters: int, quiet: bool = False) -> None:
    """One line over a panel, shortened to its width."""
    colour = QUIET if quiet else INK
    axes.set_title(
        shorten(text, letters), fontsize=8.5, fontweight="normal", color=colour, pad=3.5
    )


def show_image(axes: Axes, pixels: Float[np.ndarray, "h w 3"]) -> None:
    """A picture, at the top left of its panel where its shape is another."""
    axes.imshow(pixels, aspect="equal", interpolation="auto", vmin=0, vmax=1)
    axes.set_anchor("NW")


def align_pair(
    figure: Figure, left: Axes, right: Axes, pixels: Float[np.ndarray, "h w 3"]
) -> None:
    """Moves the right of a pair to a picture that is narrower than its panel."""
    box, other = left.get_position(True), right.get_position(True)
    across, down = figure.get_size_inches()
    width = box.height * down * pixels.shape[1] / pixels.shape[0] / across
    x = other.x0 - max(box.width - width, 0)
    right.set_position((x, other.y0, other.width, other.height))


def add_colorbar(
    figure: Figure, axes: Axes, shades: Colormap, low: float, high: float, label: str
) -> None:
    """A colour bar on the right of the figure, as high as `axes` at most 2 inches."""
    width, height = figure.get_size_inches()
    box = axes.get_position()
    tall = min(box.height, 2.2 / height)
    place = (1 - 0.8 / width, box.y1 - tall, 0.13 / width, tall)
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), shades), cax=figure.add_axes(place)
    )
    bar.outline.set_edgecolor(FAINT)
    bar.ax.tick_params(length=0, labelsize=8)
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.set_label(label, fontsize=8, color=QUIET)


def middle_aspect(pictures: Sequence[Float[np.ndarray, "..."]]) -> float:
    """Width over height of the panels that suit pictures of several shapes."""
    ratios = [image.shape[1] / image.shape[0] for image in pictures]
    return float(np.clip(np.exp(np.mean(np.log(ratios))), 0.2, 6.0))


def even_columns(count: int, most: int) -> int:
    """The columns, at most `most`, that leave the fewest panels of a grid empty."""
    fit = range(max((most + 1) // 2, 1), most + 1)
    return min(count, min(fit, key=lambda n: (-count % n, -n)))


def pair_columns(count: int, aspect: float) -> int:
    """Pairs in a row: even for a few, as many as stay legible for many."""
    most = 4 if aspect < 1.2 else 3
    return most if count > 8 else even_columns(count, most)
