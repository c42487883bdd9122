"""Clips: open video files, sample and decode frames in a process of their own."""

from vitral.data.video.clip import Clip, clip_of, open_clip
from vitral.data.video.clip_span import clip_id, names_clip, names_image, span_of
from vitral.data.video.decoder_client import TIME_OUT, require_av
from vitral.data.video.frames import (
    EXTENSIONS,
    VIDEO_EXTENSIONS,
    frame_files,
    has_clips,
)

__all__ = [
    "EXTENSIONS",
    "TIME_OUT",
    "VIDEO_EXTENSIONS",
    "Clip",
    "clip_id",
    "clip_of",
    "frame_files",
    "has_clips",
    "names_clip",
    "names_image",
    "open_clip",
    "require_av",
    "span_of",
]
