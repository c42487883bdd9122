"""Facts of a family of models that several layouts share, one module a family."""

from vitral.weights.layouts.shared import aimv2, beit, clip, dinov3

__all__ = ["aimv2", "beit", "clip", "dinov3"]
