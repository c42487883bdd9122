"""Layouts of Facebook Research's repositories: DINOv2, MAE, TimeSformer."""

from vitral.weights.layouts.facebook.timesformer import (
    FRAMES,
    detect_attention_type,
    find_differences,
    inflate_config,
    read_num_frames,
    unsupported_structure,
)

__all__ = [
    "FRAMES",
    "detect_attention_type",
    "find_differences",
    "inflate_config",
    "read_num_frames",
    "unsupported_structure",
]
