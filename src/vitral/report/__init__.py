"""A run folder in, one HTML file or a model card out; no network, no model, no data."""

from vitral.report.card import model_card
from vitral.report.render import write
from vitral.report.sections import PseudoFacts, write_pseudo_page

__all__ = ["PseudoFacts", "model_card", "write", "write_pseudo_page"]
