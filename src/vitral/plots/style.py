"""Style of the figures: colours, type, shared elements, and reproducible bytes.

The colours differ for colour-blind readers and in grey print; two are from Okabe and
Ito (2008). Figures use matplotlib's Figure class: no pyplot state, window or back-end.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

ACCENT = "#0f5a8c"
CONTRAST = "#d55e00"
WARM = "#e69f00"
SKY = "#7cc0e8"
INK = "#1c2430"
QUIET = "#6b7480"
FAINT = "#d9dee4"

SERIES_COLORS = (ACCENT, CONTRAST, WARM, SKY, QUIET, INK)
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
DASHED: Any = (0, (4, 3))
SHORT_DASHES: Any = (0, (3, 2))
DOTTED: Any = (0, (1, 2))

FULL_WIDTH = 9.2  # inches: the text width of the report at 72 points an inch
NARROW_WIDTH = 3.79  # inches: the text width of the report on a telephone
LONGEST_NAME = 22
PERCENT = "\N{NO-BREAK SPACE}%"

# The font that measures the text ships with matplotlib, so the layout is the same on
# every machine; the SVG then asks for the reader's own (narrower) interface font.
_MEASURED_FONT = "DejaVu Sans"
_SCREEN_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif"

_RC: dict[Any, Any] = {
    "font.family": [_MEASURED_FONT],
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": QUIET,
    "axes.labelsize": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#eceff3",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $1 or $x$
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "vitral",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and its alternative text."""

    figure: Figure
    alt: str


@contextlib.contextmanager
def style_context() -> Iterator[None]:
    """Apply the style in a block or a function, and restore the settings after."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # The reader's browser has the glyphs that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, whose layout makes room for its labels."""
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), layout=engine)


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of one pair of axes, in inches."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def label_axes(axes: Axes, title: str, x: str, y: str = "", *, grid: str) -> None:
    """Write the title and the names of the axes; draw quiet lines across one axis."""
    axes.set(title=title, xlabel=x, ylabel=y)
    add_gridlines(axes, grid)


def add_gridlines(axes: Axes, axis: str) -> None:
    """Draw quiet lines across one axis and remove the tick marks."""
    axes.grid(True, axis="x" if axis == "x" else "y")
    axes.tick_params(length=0)


def set_row_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a horizontal chart, from top to bottom."""
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def add_verdict(figure: Figure, verdict: str, longest: int, line: int) -> None:
    """Write at most `longest` letters under the figure, `line` letters a line."""
    if verdict:
        text = fill(shorten(verdict, longest), line)
        figure.supxlabel(text, x=0.015, ha="left", fontsize=9, color=QUIET)


def percent_formatter(decimals: int = 0) -> PercentFormatter:
    """Return a formatter of shares as percentages, as the report writes them."""
    return PercentFormatter(1.0, decimals=decimals, symbol=PERCENT)


def format_percent(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * share:.1f}{PERCENT}"


def pluralize(count: int, noun: str) -> str:
    """Return `1 head` or `3 heads`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shorten(text: str, longest: int = LONGEST_NAME) -> str:
    """Return the text on one line of at most `longest` letters."""
    line = " ".join(text.split())
    if len(line) > longest:
        line = line[: longest - 1].rstrip() + "…"
    return line


def annotate(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[int, int],
    **style: Any,
) -> None:
    """Write a text next to a point of the axes, at an offset in points."""
    axes.annotate(text, point, xytext=offset, textcoords="offset points", **style)


def to_svg(figure: Figure) -> str:
    """Return the figure as SVG text; the same figure gives the same bytes."""
    svg = _save(figure, "svg", ("Date", "Creator")).decode()
    return svg.replace(f"'{_MEASURED_FONT}'", _SCREEN_FONTS)


def to_pdf(figure: Figure) -> bytes:
    """Return the figure as PDF, for print; the same figure gives the same bytes."""
    return _save(figure, "pdf", ("CreationDate", "Creator", "Producer"))


def to_png(figure: Figure, dots_per_inch: int = 144) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes."""
    return _save(figure, "png", ("Software",), dpi=dots_per_inch)


@style_context()
def _save(figure: Figure, kind: str, absent: Sequence[str], **options: Any) -> bytes:
    """Return the bytes of a file without the metadata that are `absent`."""
    target = io.BytesIO()
    figure.savefig(target, format=kind, metadata=dict.fromkeys(absent), **options)
    return target.getvalue()
