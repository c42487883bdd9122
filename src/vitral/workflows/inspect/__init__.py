"""Figures of what a model attends to, and the report that shows them."""

from vitral.workflows.inspect.build_report import write_comparison, write_report
from vitral.workflows.inspect.inspect import (
    FIGURES,
    NEXT_FIGURE,
    InspectionOptions,
    inspect,
)
from vitral.workflows.inspect.report_maps import compute_report_maps

__all__ = [
    "FIGURES",
    "NEXT_FIGURE",
    "InspectionOptions",
    "compute_report_maps",
    "inspect",
    "write_comparison",
    "write_report",
]
