"""Figures of what a model attends to, and the report that shows them."""

from vitral.workflows.inspect.build_report import write_report
from vitral.workflows.inspect.inspect import VIEWS, inspect
from vitral.workflows.inspect.report_maps import look

__all__ = ["VIEWS", "inspect", "look", "write_report"]
