"""Layouts of Facebook Research's repositories: DINOv2, MAE, TimeSformer."""

from vitral.weights.layouts.facebook.timesformer import (
    FRAMES,
    clips_of,
    differing,
    frames_of,
    scheme_of,
    structure,
)

__all__ = ["FRAMES", "clips_of", "differing", "frames_of", "scheme_of", "structure"]
