"""timm's layout, whose parameter names are those of vitral."""

from vitral.weights.layouts.timm import layout

__all__ = ["layout"]
