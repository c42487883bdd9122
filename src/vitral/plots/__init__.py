"""Arrays and result rows in, matplotlib figures with alt text out; reads no file."""

from vitral.plots.arrays import upsample
from vitral.plots.attention import (
    colour_overlay,
    comparison,
    gallery,
    heads,
    overlay,
    shade,
    tint,
)
from vitral.plots.classes import class_counts, confusion, per_class, reliability
from vitral.plots.clips import animation, colour_strip, strip, strip_pixels
from vitral.plots.cost_curves import Line, Panel, growth
from vitral.plots.distance import distance
from vitral.plots.embeddings import colours, filters, position_panels, positions
from vitral.plots.faithfulness import faithfulness_curves, randomisation
from vitral.plots.learning_curves_by_model import Grown, data_sizes
from vitral.plots.pseudo import pseudo_labels
from vitral.plots.rank import rank_curves, similarity_curves
from vitral.plots.reconstruction import masked, reconstructions
from vitral.plots.scaling import FittedCurve, data_size
from vitral.plots.study import seeds
from vitral.plots.style import Plot, to_pdf, to_png, to_svg
from vitral.plots.training import learning_curves

__all__ = [
    "FittedCurve",
    "Grown",
    "Line",
    "Panel",
    "Plot",
    "animation",
    "class_counts",
    "colour_overlay",
    "colour_strip",
    "colours",
    "comparison",
    "confusion",
    "data_size",
    "data_sizes",
    "distance",
    "faithfulness_curves",
    "filters",
    "gallery",
    "growth",
    "heads",
    "learning_curves",
    "masked",
    "overlay",
    "per_class",
    "position_panels",
    "positions",
    "pseudo_labels",
    "randomisation",
    "rank_curves",
    "reconstructions",
    "reliability",
    "seeds",
    "shade",
    "similarity_curves",
    "strip",
    "strip_pixels",
    "tint",
    "to_pdf",
    "to_png",
    "to_svg",
    "upsample",
]
