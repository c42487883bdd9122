"""Matplotlib figures with alternative text from arrays and result rows; no files."""

from vitral.plots.attention import (
    color_overlay,
    comparison,
    gallery,
    heads,
    overlay,
    shade,
    tint,
)
from vitral.plots.clips import animation, color_strip, filmstrip, filmstrip_pixels
from vitral.plots.cost_curves import CostCurve, CostPanel, cost_growth
from vitral.plots.counts import class_counts
from vitral.plots.data_size import (
    DataSizeSeries,
    FittedCurve,
    data_size_curve,
    data_size_curves,
)
from vitral.plots.depth import distance, rank_curves, similarity_curves
from vitral.plots.embeddings import feature_colors, filters, position_panels, positions
from vitral.plots.faithfulness import faithfulness_curves, randomization
from vitral.plots.primitives import upsample
from vitral.plots.pseudo import pseudo_labels
from vitral.plots.reconstruction import mask_patches, reconstructions
from vitral.plots.study import seed_accuracies
from vitral.plots.style import Plot, to_pdf, to_png, to_svg
from vitral.plots.training import learning_curves

__all__ = [
    "CostCurve",
    "CostPanel",
    "DataSizeSeries",
    "FittedCurve",
    "Plot",
    "animation",
    "class_counts",
    "color_overlay",
    "color_strip",
    "comparison",
    "cost_growth",
    "data_size_curve",
    "data_size_curves",
    "distance",
    "faithfulness_curves",
    "feature_colors",
    "filmstrip",
    "filmstrip_pixels",
    "filters",
    "gallery",
    "heads",
    "learning_curves",
    "mask_patches",
    "overlay",
    "position_panels",
    "positions",
    "pseudo_labels",
    "randomization",
    "rank_curves",
    "reconstructions",
    "seed_accuracies",
    "shade",
    "similarity_curves",
    "tint",
    "to_pdf",
    "to_png",
    "to_svg",
    "upsample",
]
