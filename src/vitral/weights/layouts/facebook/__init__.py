"""Layouts of Facebook Research's repositories: DINOv2, MAE, TimeSformer."""

from vitral.weights.layouts.facebook import timesformer

__all__ = ["timesformer"]
