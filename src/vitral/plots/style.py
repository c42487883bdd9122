"""One look for every figure: colours, type, and bytes that repeat.

The colours stay apart for colour-blind readers and in grey print; two of them are Okabe
and Ito's (2008). Figures are made with matplotlib's Figure class, so no pyplot state,
no window and no back-end is involved. What is drawn: classes.py, training.py.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

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

FULL_WIDTH = 9.2  # inches: the text width of the report at 72 points an inch
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


class Plot(NamedTuple):
    """A figure and the sentence that stands for it where it cannot be seen."""

    figure: Figure
    alt: str


@contextlib.contextmanager
def style_context() -> Iterator[None]:
    """Draw inside this block; matplotlib's settings are put back after it."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # A class name in a script that the measuring font lacks is still shown by
        # the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that finds room for its labels by itself."""
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), layout=engine)


def add_gridlines(axes: Axes, axis: str) -> None:
    """Quiet lines across one axis, and no tick marks."""
    axes.grid(True, axis="x" if axis == "x" else "y")
    axes.tick_params(length=0)


def percent_formatter() -> PercentFormatter:
    """Shares as whole percentages, written as in the report."""
    return PercentFormatter(1.0, decimals=0, symbol=PERCENT)


def format_percent(share: float) -> str:
    """One decimal."""
    return f"{100 * share:.1f}{PERCENT}"


def pluralize(number: int, noun: str) -> str:
    """`1 head` or `3 heads`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shorten(text: str, longest: int = LONGEST_NAME) -> str:
    """Text on one line and not longer than `longest`."""
    line = " ".join(text.split())
    if len(line) > longest:
        line = line[: longest - 1].rstrip() + "…"
    return line


def to_svg(figure: Figure) -> str:
    """The figure as SVG text; the same figure gives the same bytes."""
    target = io.StringIO()
    with style_context():
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return target.getvalue().replace(f"'{_MEASURED_FONT}'", _SCREEN_FONTS)


def to_pdf(figure: Figure) -> bytes:
    """The figure as PDF, for print; the same figure gives the same bytes."""
    target = io.BytesIO()
    about = {"CreationDate": None, "Creator": None, "Producer": None}
    with style_context():
        figure.savefig(target, format="pdf", metadata=about)
    return target.getvalue()


def to_png(figure: Figure, dots_per_inch: int = 144) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    target = io.BytesIO()
    with style_context():
        figure.savefig(
            target, format="png", dpi=dots_per_inch, metadata={"Software": None}
        )
    return target.getvalue()
