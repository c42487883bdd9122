"""Sections of the report: each turns a run folder into what the template shows."""

from vitral.report.sections import details
from vitral.report.sections.attention import Looks, about_maps, looks
from vitral.report.sections.examples import (
    Answers,
    Sources,
    chosen,
    right_answers,
    worst_errors,
)
from vitral.report.sections.pseudo_labels import PseudoFacts, write_pseudo_page
from vitral.report.sections.results import Bar, Results, bar, results
from vitral.report.sections.unlabelled import Representation, representation, sentence

__all__ = [
    "Answers",
    "Bar",
    "Looks",
    "PseudoFacts",
    "Representation",
    "Results",
    "Sources",
    "about_maps",
    "bar",
    "chosen",
    "details",
    "looks",
    "representation",
    "results",
    "right_answers",
    "sentence",
    "worst_errors",
    "write_pseudo_page",
]
