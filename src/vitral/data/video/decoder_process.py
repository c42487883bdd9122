"""Video files with PyAV: which frames a file has, and exactly those that are wanted.

Runs as a process of its own (see decoder.py), which a codec that hangs or crashes takes
down alone. That process imports this file by its path, so nothing here imports vitral.
"""

import itertools
import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np

MAX_PIXELS = 64_000_000
_WITH_INDEX = ("mov", "matroska", "avi")
"""Containers that say where key frames lie; others are decoded from their start."""
_MAX_CACHED = 512  # listings; one of 300 frames takes 5 kB


class VideoError(Exception):
    """Why a file gives no frames, in one line without its path."""


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a file in the order in which they are shown."""

    stamps: np.ndarray
    """Presentation stamp of each frame in ticks, rising; empty where `counted`."""
    times: np.ndarray
    """Seconds after the first frame, float64, rising."""
    keys: np.ndarray
    """Stamps of the frames that decoding can begin with, rising; at most one where
    the container cannot find them."""
    counted: bool
    """The container gives no usable stamps: frames are known by their number only."""
    height: int
    width: int
    notes: tuple[str, ...]


def index_frames(path: str) -> FrameIndex:
    """The frames that a file holds, from its packets; decodes only where it must.

    Raises:
        Unusable: there is no picture, no frame, or less of the file than it claims.
    """
    with av.open(path, metadata_errors="replace") as container:
        stream = _select_stream(container)
        codec = stream.codec_context
        height, width = codec.height, codec.width
        if height * width > MAX_PIXELS:
            raise VideoError(
                f"the header claims {width} x {height} = {height * width:,} pixels; "
                f"at most {MAX_PIXELS:,} are accepted"
            )
        _refuse_cut(path, stream)
        notes = []
        ratio = stream.sample_aspect_ratio
        if ratio and ratio != 1:
            notes.append("pixels that are not square were used as they are")
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard and _is_shown(codec.name, packet)
        ]
        tick = float(stream.time_base) if stream.time_base else 0.0
        jumps = container.format.name.split(",")[0] in _WITH_INDEX
    first_key = next((i for i, (_, is_key) in enumerate(packets) if is_key), None)
    if first_key is None:
        raise VideoError("the video has no frame")
    packets = packets[first_key:]
    stamps = [pts for pts, _ in packets if pts is not None]
    if len(stamps) < len(packets) or len(set(stamps)) < len(stamps) or not tick:
        times = _decode_times(path)
        nothing = np.zeros(0, np.int64)
        return FrameIndex(nothing, times, nothing, True, height, width, tuple(notes))
    # Frames shown before the first key frame need one that is not in the file.
    shown = np.array(sorted(pts for pts in stamps if pts >= stamps[0]), np.int64)
    keys = np.array(sorted(pts for pts, key in packets if key), np.int64)
    keys = np.union1d(keys, shown[:1]) if jumps else shown[:1]
    times = (shown - shown[0]) * tick
    return FrameIndex(shown, times, keys, False, height, width, tuple(notes))


def read_frames(path: str, indices: list[int], index: FrameIndex) -> np.ndarray:
    """The wanted frames, uint8 [wanted, height, width, 3], turned as they are shown.

    Args:
        indices: numbers of frames in the order of showing; repeats are allowed.

    Raises:
        Unusable: a wanted frame is damaged or missing, or frames differ in size.
    """
    numbers = sorted(set(indices))
    pictures: dict[int, np.ndarray] = {}
    if len(index.keys) > 1:
        with av.open(path, metadata_errors="replace") as container:
            pictures.update(_decode_by_seeking(container, numbers, index))
    missing = [number for number in numbers if number not in pictures]
    if missing:
        with av.open(path, metadata_errors="replace") as container:
            pictures.update(_decode_from_start(container, missing, index))
    missing = [number for number in missing if number not in pictures]
    if missing:
        number = missing[0]
        when = index.times[number]
        raise VideoError(f"frame {number} at {when:.3f} s cannot be decoded")
    shapes = {picture.shape for picture in pictures.values()}
    if len(shapes) > 1:
        sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in sorted(shapes))
        raise VideoError(f"the frames differ in size: {sizes} pixels")
    return np.stack([pictures[number] for number in indices])


def _select_stream(container: Any) -> Any:
    """The first stream of moving pictures; the cover of a song is none."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise VideoError("no decoder for its video is installed")
            # Several threads give frames late, and not the same error each time.
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    if container.streams.audio:
        raise VideoError("it holds sound but no picture")
    raise VideoError("it holds no picture")


def _is_shown(codec: str, packet: Any) -> bool:
    """Whether a packet gives a frame: VP8 has some that only serve other frames."""
    if codec not in ("vp8", "libvpx"):
        return True
    return bool(bytes(packet)[0] >> 4 & 1)  # RFC 6386, section 9.1: show_frame


def _refuse_cut(path: str, stream: Any) -> None:
    """A file whose index points behind its end lost its last frames."""
    size = os.path.getsize(path)
    entries = [(entry.pos, entry.size) for entry in stream.index_entries]
    lost = sum(position + length > size for position, length in entries)
    if lost and len(entries) > 1:
        raise VideoError(
            f"the file is cut short: {lost} of {len(entries)} frames lie behind its end"
        )


def _decode_times(path: str) -> np.ndarray:
    """Times of all frames by decoding them all, for want of stamps."""
    with av.open(path, metadata_errors="replace") as container:
        stream = _select_stream(container)
        rate = float(stream.average_rate or 0) or 30.0
        found = [frame.time for frame in container.decode(stream)]
    if not found:
        raise VideoError("the video has no frame")
    known = [time for time in found if time is not None]
    rising = all(later > sooner for sooner, later in itertools.pairwise(known))
    if len(known) < len(found) or not rising:
        return np.arange(len(found)) / rate
    return np.array(known) - known[0]


def _decode_from_start(
    container: Any, numbers: list[int], index: FrameIndex
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frame after frame up to the last that is wanted."""
    left = set(numbers)
    stamps = {int(stamp): number for number, stamp in enumerate(index.stamps)}
    for place, frame in enumerate(container.decode(_select_stream(container))):
        number = place if index.counted else stamps.get(frame.pts, -1)
        if number in left:
            left.remove(number)
            yield number, _to_array(frame, number)
        if not left:
            return


def _decode_by_seeking(
    container: Any, numbers: list[int], index: FrameIndex
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode from the last key frame before each wanted frame."""
    stream = _select_stream(container)
    number_of = {int(index.stamps[number]): number for number in numbers}
    left = sorted(number_of)
    while left:
        before = len(left)
        for frame in _decode_from_key_frame(container, stream, left[0], index):
            if frame.pts == left[0]:
                left.pop(0)
                yield number_of[frame.pts], _to_array(frame, number_of[frame.pts])
            elif frame.pts is not None and frame.pts > left[0]:
                return  # shown without it
            if not left or (
                len(left) < before and _has_key_frame_between(left[0], frame.pts, index)
            ):
                break
        if len(left) == before:
            return


def _has_key_frame_between(stamp: int, now: int | None, index: FrameIndex) -> bool:
    """Whether a key frame lies between here and a frame, so that a jump saves work."""
    if now is None:
        return False
    behind = np.searchsorted(index.keys, now, side="right")
    return bool(behind < len(index.keys) and index.keys[behind] <= stamp)


def _decode_from_key_frame(
    container: Any, stream: Any, stamp: int, index: FrameIndex
) -> Iterator[Any]:
    """Frames from a key frame on that shows no later than `stamp`."""
    place = int(np.searchsorted(index.keys, stamp, side="right")) - 1
    while place >= 0:
        # Some containers find their way by decoding stamps and land too late.
        container.seek(int(index.keys[place]), stream=stream)
        decoded = container.decode(stream)
        first = next(decoded, None)
        if first is not None and first.pts is not None and first.pts <= stamp:
            yield first
            yield from decoded
            return
        place -= 1


def _to_array(frame: Any, number: int) -> np.ndarray:
    if frame.is_corrupt:
        raise VideoError(f"frame {number} is damaged")
    pixels = frame.to_ndarray(format="rgb24")
    # The angle counts against the clock, as np.rot90 does.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer a JSON line with a JSON line and the bytes that it announces."""
    kept: OrderedDict[tuple[Any, ...], FrameIndex] = OrderedDict()
    for line in requests:
        asked = json.loads(line)
        # Whoever asked cuts sooner; this is for the case that nobody is left to do so.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, asked["timeout"] + 10)
        try:
            header, content = _handle_request(asked, kept)
        except Exception as error:
            text = str(error) if isinstance(error, VideoError) else _reason(error)
            header, content = {"error": text}, b""
        answers.write(json.dumps({**header, "bytes": len(content)}).encode() + b"\n")
        answers.write(content)
        answers.flush()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def _handle_request(
    request: dict[str, Any], cache: "OrderedDict[tuple[Any, ...], FrameIndex]"
) -> tuple[dict[str, Any], bytes]:
    path = request["path"]
    status = os.stat(path)
    identity = (path, status.st_mtime_ns, status.st_size)
    if identity not in cache:
        cache[identity] = index_frames(path)
        if len(cache) > _MAX_CACHED:
            cache.popitem(last=False)
    found = cache[identity]
    if "frames" not in request:
        about = {"height": found.height, "width": found.width, "notes": found.notes}
        return about, found.times.astype(np.float64).tobytes()
    pixels = read_frames(path, request["frames"], found)
    return {"shape": pixels.shape}, pixels.tobytes()


def _reason(error: Exception) -> str:
    """libav's words, without its number and the path."""
    text = getattr(error, "strerror", None) or str(error)
    text = " ".join(str(text).split())
    return f"it cannot be decoded as video: {text or type(error).__name__}"


if __name__ == "__main__":
    # Of the terminal's Ctrl-C the training run takes care.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    av.logging.set_level(None)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, replies)
