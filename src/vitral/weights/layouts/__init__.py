"""Layouts of other projects: one module each with a `LAYOUT`, discovered by file."""

from vitral.weights.layouts.assumptions import with_assumptions, with_settings
from vitral.weights.layouts.class_names import with_unique_names
from vitral.weights.layouts.families import (
    find_family,
    naming_the_family,
    unknown_family,
)
from vitral.weights.layouts.layout import Layout, ModelSpec, available_layouts
from vitral.weights.layouts.vitral import save, update_metadata

__all__ = [
    "Layout",
    "ModelSpec",
    "available_layouts",
    "find_family",
    "naming_the_family",
    "save",
    "unknown_family",
    "update_metadata",
    "with_assumptions",
    "with_settings",
    "with_unique_names",
]
