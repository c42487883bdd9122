"""HTML report and model card of a run folder, without network, model or data."""

from vitral.report.card import model_card
from vitral.report.render import write_html
from vitral.report.sections import PseudoLabelReport, write_pseudo_page

__all__ = ["PseudoLabelReport", "model_card", "write_html", "write_pseudo_page"]
