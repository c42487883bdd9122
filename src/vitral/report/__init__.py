"""A run folder in, one HTML file or a model card out; no network, no model, no data."""

from vitral.report.card import model_card
from vitral.report.render import write

__all__ = ["model_card", "write"]
