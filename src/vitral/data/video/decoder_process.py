"""Decode exact frames of video files with PyAV, in a separate process.

A codec that hangs or crashes ends this process alone (see decoder_client.py). It is
run by its path, so nothing here imports vitral.
"""

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np

MAX_PIXELS = 64_000_000
MAX_MEMORY = 3 * 2**32 + 2**30
"""Bytes of address space: the largest answer three times, and the libraries."""
PARENT_SECONDS = 0.5
"""Seconds between two looks whether the process that asks still lives."""
_WITH_INDEX = ("mov", "matroska", "avi")
"""Containers with an index of key frames; others are decoded from their start."""
_MAX_CACHED = 512  # frame indices; one of 300 frames takes 5 kB


class VideoError(Exception):
    """A file without usable frames; the text is the reason, without the path."""


@dataclass(frozen=True)
class FrameIndex:
    """Frames of a file in presentation order."""

    stamps: np.ndarray
    """Presentation stamp of each frame in ticks, increasing; empty if `counted`."""
    times: np.ndarray
    """Seconds after the first frame, float64, increasing."""
    keys: np.ndarray
    """Stamps of the key frames, increasing; at most one if the container has no index
    of them."""
    counted: bool
    """True: the container has no usable stamps, and frames are found by counting."""
    height: int
    width: int
    notes: tuple[str, ...]


def index_frames(path: str) -> FrameIndex:
    """Index the frames of a file from its packets; decode only without stamps."""
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
        has_index = container.format.name.split(",")[0] in _WITH_INDEX
    first_key = next((i for i, (_, is_key) in enumerate(packets) if is_key), None)
    if first_key is None:
        raise VideoError("the video has no frame")
    packets = packets[first_key:]
    stamps = [pts for pts, _ in packets if pts is not None]
    if len(stamps) < len(packets) or len(set(stamps)) < len(stamps) or not tick:
        times = _decode_times(path)
        empty = np.zeros(0, np.int64)
        return FrameIndex(empty, times, empty, True, height, width, tuple(notes))
    # Frames shown before the first key frame depend on one that is not in the file.
    presented = np.array(sorted(pts for pts in stamps if pts >= stamps[0]), np.int64)
    keys = np.array(sorted(pts for pts, key in packets if key), np.int64)
    keys = np.union1d(keys, presented[:1]) if has_index else presented[:1]
    times = (presented - presented[0]) * tick
    return FrameIndex(presented, times, keys, False, height, width, tuple(notes))


def read_frames(path: str, indices: list[int], index: FrameIndex) -> np.ndarray:
    """Decode frames, uint8 [indices, height, width, 3], rotated as they are shown.

    Args:
        indices: positions in presentation order; repeats are allowed.
    """
    distinct = sorted(set(indices))
    pictures: dict[int, np.ndarray] = {}
    if len(index.keys) > 1:
        with av.open(path, metadata_errors="replace") as container:
            pictures.update(_decode_by_seeking(container, distinct, index))
    missing = [i for i in distinct if i not in pictures]
    if missing:
        with av.open(path, metadata_errors="replace") as container:
            pictures.update(_decode_from_start(container, missing, index))
    missing = [i for i in missing if i not in pictures]
    if missing:
        first = missing[0]
        raise VideoError(
            f"frame {first} at {index.times[first]:.3f} s cannot be decoded"
        )
    shapes = {picture.shape for picture in pictures.values()}
    if len(shapes) > 1:
        sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in sorted(shapes))
        raise VideoError(f"the frames differ in size: {sizes} pixels")
    return np.stack([pictures[i] for i in indices])


def _select_stream(container: Any) -> Any:
    """Return the first video stream, without the cover of a song."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise VideoError("no decoder for its video is installed")
            # Threads return frames late, and errors that vary from run to run.
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    if container.streams.audio:
        raise VideoError("it holds sound but no picture")
    raise VideoError("it holds no picture")


def _is_shown(codec: str, packet: Any) -> bool:
    """Return whether a packet gives a frame: VP8 has some that only serve others."""
    if codec not in ("vp8", "libvpx"):
        return True
    return bool(bytes(packet)[0] >> 4 & 1)  # RFC 6386, section 9.1: show_frame


def _refuse_cut(path: str, stream: Any) -> None:
    """Raise VideoError if the file's index points behind its end."""
    size = os.path.getsize(path)
    entries = [(entry.pos, entry.size) for entry in stream.index_entries]
    cut = sum(position + length > size for position, length in entries)
    if cut and len(entries) > 1:
        raise VideoError(
            f"the file is cut short: {cut} of {len(entries)} frames lie behind its end"
        )


def _decode_times(path: str) -> np.ndarray:
    """Return the times of all frames by decoding them, for files without stamps."""
    with av.open(path, metadata_errors="replace") as container:
        stream = _select_stream(container)
        rate = float(stream.average_rate or 0) or 30.0
        times = [frame.time for frame in container.decode(stream)]
    if not times:
        raise VideoError("the video has no frame")
    stamped = [time for time in times if time is not None]
    increasing = all(later > sooner for sooner, later in itertools.pairwise(stamped))
    if len(stamped) < len(times) or not increasing:
        return np.arange(len(times)) / rate
    return np.array(stamped) - stamped[0]


def _decode_from_start(
    container: Any, indices: list[int], index: FrameIndex
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frame after frame up to the last one of `indices`."""
    remaining = set(indices)
    by_stamp = {int(stamp): i for i, stamp in enumerate(index.stamps)}
    for position, frame in enumerate(container.decode(_select_stream(container))):
        i = position if index.counted else by_stamp.get(frame.pts, -1)
        if i in remaining:
            remaining.remove(i)
            yield i, _to_array(frame, i, index)
        if not remaining:
            return


def _decode_by_seeking(
    container: Any, indices: list[int], index: FrameIndex
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode from the last key frame before each of `indices`."""
    stream = _select_stream(container)
    by_stamp = {int(index.stamps[i]): i for i in indices}
    stamps = sorted(by_stamp)
    while stamps:
        before = len(stamps)
        for frame in _decode_from_key_frame(container, stream, stamps[0], index):
            if frame.pts == stamps[0]:
                stamps.pop(0)
                number = by_stamp[frame.pts]
                yield number, _to_array(frame, number, index)
            elif frame.pts is not None and frame.pts > stamps[0]:
                return  # the decoder skipped the frame
            if not stamps or (
                len(stamps) < before
                and _has_key_frame_between(stamps[0], frame.pts, index)
            ):
                break
        if len(stamps) == before:
            return


def _has_key_frame_between(stamp: int, now: int | None, index: FrameIndex) -> bool:
    """Return whether a key frame lies after `now`, up to `stamp`: a seek saves work."""
    if now is None:
        return False
    following = np.searchsorted(index.keys, now, side="right")
    return bool(following < len(index.keys) and index.keys[following] <= stamp)


def _decode_from_key_frame(
    container: Any, stream: Any, stamp: int, index: FrameIndex
) -> Iterator[Any]:
    """Yield frames from a key frame on that is shown no later than `stamp`."""
    key = int(np.searchsorted(index.keys, stamp, side="right")) - 1
    while key >= 0:
        # Some containers seek by decoding stamps and land too late.
        container.seek(int(index.keys[key]), stream=stream)
        decoded = container.decode(stream)
        first = next(decoded, None)
        if first is not None and first.pts is not None and first.pts <= stamp:
            yield first
            yield from decoded
            return
        key -= 1


def _to_array(frame: Any, number: int, index: FrameIndex) -> np.ndarray:
    if frame.is_corrupt:
        raise VideoError(f"frame {number} is damaged")
    if (frame.height, frame.width) != (index.height, index.width):
        # Before its pixels are made: the cap was checked for the header's size.
        raise VideoError(
            f"the frames differ in size: the header says {index.width} x "
            f"{index.height}, frame {number} is {frame.width} x {frame.height} pixels"
        )
    pixels = frame.to_ndarray(format="rgb24")
    # The angle is counter-clockwise, as in np.rot90.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer each JSON line with a JSON line and as many bytes as it announces."""
    cache: OrderedDict[tuple[Any, ...], FrameIndex] = OrderedDict()
    for line in requests:
        request = json.loads(line)
        # The client kills sooner; the timer is for a client that is gone.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, request["timeout"] + 10)
        try:
            header, content = _handle_request(request, cache)
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
    index = cache[identity]
    if "frames" not in request:
        header = {"height": index.height, "width": index.width, "notes": index.notes}
        return header, index.times.astype(np.float64).tobytes()
    pixels = read_frames(path, request["frames"], index)
    return {"shape": pixels.shape}, pixels.tobytes()


def _limit_memory() -> None:
    """Bound the memory of this process, which decodes files of strangers."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, also in the middle of a decoding."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def _reason(error: Exception) -> str:
    """Return libav's message without its error number and the path."""
    text = getattr(error, "strerror", None) or str(error)
    text = " ".join(str(text).split())
    return f"it cannot be decoded as video: {text or type(error).__name__}"


if __name__ == "__main__":
    # The training run handles Ctrl-C of the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    av.logging.set_level(None)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, replies)
