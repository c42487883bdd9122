"""Figures of what a model attends to, and the report that shows them."""

from vitral.workflows.inspect.build_report import write_report
from vitral.workflows.inspect.inspect import FIGURES, InspectionOptions, inspect
from vitral.workflows.inspect.report_maps import compute_report_maps

__all__ = [
    "FIGURES",
    "InspectionOptions",
    "compute_report_maps",
    "inspect",
    "write_report",
]
