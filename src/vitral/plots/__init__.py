"""Arrays and result rows in, matplotlib figures with alt text out; reads no file."""

from vitral.plots.classes import class_counts, confusion, per_class, reliability
from vitral.plots.style import Plot, to_png, to_svg
from vitral.plots.training import learning_curves

__all__ = [
    "Plot",
    "class_counts",
    "confusion",
    "learning_curves",
    "per_class",
    "reliability",
    "to_png",
    "to_svg",
]
