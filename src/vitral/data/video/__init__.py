"""Open clips, and decode the frames of video files in a separate process."""

from vitral.data.video.clip import Clip, clip_id, parse_span
from vitral.data.video.decoder_client import DEFAULT_TIMEOUT, require_av
from vitral.data.video.frame_sampling import Sampling
from vitral.data.video.frames import (
    CLIP_EXTENSIONS,
    VIDEO_EXTENSIONS,
    clip_from_array,
    frame_files,
    has_clips,
    is_clip_path,
    is_image_path,
    open_clip,
)
from vitral.data.video.views import FrameTimes, get_frame_times, load_views, read_clip

__all__ = [
    "CLIP_EXTENSIONS",
    "DEFAULT_TIMEOUT",
    "VIDEO_EXTENSIONS",
    "Clip",
    "FrameTimes",
    "Sampling",
    "clip_from_array",
    "clip_id",
    "frame_files",
    "get_frame_times",
    "has_clips",
    "is_clip_path",
    "is_image_path",
    "load_views",
    "open_clip",
    "parse_span",
    "read_clip",
    "require_av",
]
