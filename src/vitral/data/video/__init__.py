"""Open clips, and decode the frames of video files in a separate process."""

from vitral.data.video.clip import Clip, clip_from_array, open_clip
from vitral.data.video.clip_span import clip_id, is_clip_path, is_image_path, parse_span
from vitral.data.video.decoder_client import DEFAULT_TIMEOUT, require_av
from vitral.data.video.frames import (
    CLIP_EXTENSIONS,
    VIDEO_EXTENSIONS,
    frame_files,
    has_clips,
)

__all__ = [
    "CLIP_EXTENSIONS",
    "DEFAULT_TIMEOUT",
    "VIDEO_EXTENSIONS",
    "Clip",
    "clip_from_array",
    "clip_id",
    "frame_files",
    "has_clips",
    "is_clip_path",
    "is_image_path",
    "open_clip",
    "parse_span",
    "require_av",
]
