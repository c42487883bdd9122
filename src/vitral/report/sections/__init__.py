"""Sections of the report: each turns a run folder into variables of the template."""

from vitral.report.sections import details
from vitral.report.sections.attention import attention_section, maps_note
from vitral.report.sections.examples import (
    PictureSources,
    correct_examples,
    select_examples,
    worst_errors,
)
from vitral.report.sections.pseudo_labels import PseudoLabelReport, write_pseudo_page
from vitral.report.sections.results import bar, results_section
from vitral.report.sections.unlabelled import (
    representation_section,
    representation_sentence,
)

__all__ = [
    "PictureSources",
    "PseudoLabelReport",
    "attention_section",
    "bar",
    "correct_examples",
    "details",
    "maps_note",
    "representation_section",
    "representation_sentence",
    "results_section",
    "select_examples",
    "worst_errors",
    "write_pseudo_page",
]
