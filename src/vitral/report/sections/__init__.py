"""Sections of every report: a run folder turned into variables of the template."""

from vitral.report.sections import details
from vitral.report.sections.attention import attention_section
from vitral.report.sections.pseudo_labels import PseudoLabelReport, write_pseudo_page

__all__ = [
    "PseudoLabelReport",
    "attention_section",
    "details",
    "write_pseudo_page",
]
