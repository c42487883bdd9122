"""Layouts of other projects: one module each, with a `LAYOUT`, found by its file."""

from vitral.weights.layouts.layout import Held, Layout, available_layouts
from vitral.weights.layouts.vitral import keep, save

__all__ = ["Held", "Layout", "available_layouts", "keep", "save"]
