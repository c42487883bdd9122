"""A run folder in, one HTML file or a model card out; no network, no model, no data."""

from vitral.report.card import model_card
from vitral.report.pseudo import PseudoFacts, write_pseudo_page
from vitral.report.render import write

__all__ = ["PseudoFacts", "model_card", "write", "write_pseudo_page"]
