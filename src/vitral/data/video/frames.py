"""Open clips: a video file, an .npz of frames or a folder of images.

All three give the same frames at the same indices. frame_sampling.py chooses indices
from time stamps before anything is decoded.
"""

import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitral.data.hidden import reason_hidden
from vitral.data.images import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from vitral.data.images import decode, one_line
from vitral.data.images.decode import FORMATS
from vitral.data.order import natural_key
from vitral.data.video import decoder_client
from vitral.data.video.clip import Clip, FrameSource
from vitral.errors import ImageError
from vitral.npy_header import NpyHeader, read_npy_header

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts"}
    | {".m2ts", ".wmv", ".flv", ".3gp", ".ogv"}
)
CLIP_EXTENSIONS = VIDEO_EXTENSIONS | {".npz"}
DEFAULT_FRAME_RATE = 30.0
"""Frames per second of a clip without time stamps."""
_DIGITS = re.compile(r"(\d+)\D*$")


def open_clip(
    path: Path,
    span: tuple[float, float] | None = None,
    timeout: float = decoder_client.DEFAULT_TIMEOUT,
) -> Clip:
    """Open a video file, an .npz or a frame folder; decode no more than needed.

    Args:
        span: (start, end) in seconds after the first frame, end exclusive. None: the
            full clip.
        timeout: seconds that decoding may take per request for frames.

    Raises:
        ImageError: it has no frame, or none within `span`; the message is the reason
            in one line, without the path.
        MissingExtraError: it is a video file and PyAV is not installed.
    """
    if path.is_dir():
        clip = _open_folder(path)
    elif path.suffix.lower() == ".npz":
        clip = _open_npz(path)
    else:
        times, info = decoder_client.probe(path, timeout)
        size = info["height"], info["width"]
        source = _VideoSource(path=path, size=size, timeout=timeout)
        clip = Clip(times=times, source=source, notes=tuple(info["notes"]))
    if span is None:
        return clip
    if not clip.timed:
        raise ImageError(
            "start and end need time stamps, which a folder of frames and an .npz "
            "without fps or times do not have"
        )
    return clip.trim(*span)


def clip_from_array(frames: np.ndarray) -> Clip:
    """Make a clip of an array, uint8 [frames, height, width, 3].

    Raises:
        ImageError: the array has another type or shape, or is empty.
    """
    _refuse_array("frames", frames.shape, frames.dtype)
    source = _ArraySource(frames=np.ascontiguousarray(frames))
    return Clip(times=_assumed_times(len(frames)), source=source, timed=False)


def is_clip_path(path: Path) -> bool:
    """Return whether a path is a clip: a video file, an .npz, a folder of frames."""
    return path.is_dir() or path.suffix.lower() in CLIP_EXTENSIONS


def is_image_path(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.is_dir()


def frame_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, in natural order."""
    files = [
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in IMAGE_EXTENSIONS and not reason_hidden(entry.name)
    ]
    return sorted(files, key=lambda entry: natural_key(entry.name))


def has_clips(folder: Path) -> bool:
    """Return whether a folder holds folders or clips; its images are then no clip."""
    return any(
        entry.is_dir() or entry.suffix.lower() in CLIP_EXTENSIONS
        for entry in folder.iterdir()
        if not reason_hidden(entry.name)
    )


@dataclass(frozen=True, kw_only=True)
class _VideoSource(FrameSource):
    """Frames of a video file, decoded in the video process."""

    path: Path
    size: tuple[int, int]
    timeout: float

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        _refuse_bulk(len(indices), *self.size)
        pixels = decoder_client.read_frames(self.path, list(indices), self.timeout)
        return [Image.fromarray(frame) for frame in pixels]


@dataclass(frozen=True, kw_only=True)
class _FolderSource(FrameSource):
    """Frames that are image files of a folder."""

    files: tuple[Path, ...]

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        frames: dict[int, Image.Image] = {}
        for i in indices:
            if i not in frames:
                frames[i] = self._decode_frame(self.files[i])
        self._refuse_sizes({self.files[i].name: f.size for i, f in frames.items()})
        return [frames[i] for i in indices]

    def verify(self) -> None:
        sizes = {}
        for file in self.files:
            try:
                with Image.open(file, formats=FORMATS) as opened:
                    sizes[file.name] = opened.size
            except Exception:  # a bomb, another format, a cut file: decoding says which
                sizes[file.name] = self._decode_frame(file).size
        if len(set(sizes.values())) > 1:
            # A header's size is before the orientation that decoding applies.
            sizes = {file.name: self._decode_frame(file).size for file in self.files}
        self._refuse_sizes(sizes)

    @staticmethod
    def _decode_frame(file: Path) -> Image.Image:
        try:
            return decode(file).image
        except ImageError as error:
            raise ImageError(f"frame {file.name}: {error}") from error

    @staticmethod
    def _refuse_sizes(sizes: dict[str, tuple[int, int]]) -> None:
        first, expected = next(iter(sizes.items()))
        for name, size in sizes.items():
            if size != expected:
                raise ImageError(
                    f"the frames differ in size: {first} is {expected[0]} x "
                    f"{expected[1]} and {name} {size[0]} x {size[1]} pixels"
                )


@dataclass(frozen=True, kw_only=True)
class _ArraySource(FrameSource):
    """Frames in memory."""

    frames: np.ndarray = field(repr=False)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return [Image.fromarray(self.frames[index]) for index in indices]


def _assumed_times(count: int) -> np.ndarray:
    return np.arange(count) / DEFAULT_FRAME_RATE


def _open_folder(folder: Path) -> Clip:
    try:
        files = frame_files(folder)
    except OSError as error:
        raise ImageError(f"the folder cannot be read: {error.strerror}") from error
    if not files:
        raise ImageError("the folder holds no frame")
    matches = [_DIGITS.search(file.stem) for file in files]
    numbers = [int(match[1]) for match in matches if match]
    notes: tuple[str, ...] = ()
    if len(numbers) == len(files) and numbers[-1] - numbers[0] + 1 != len(files):
        notes = ("frame numbers with gaps were taken in their order",)
    return Clip(
        times=_assumed_times(len(files)),
        source=_FolderSource(files=tuple(files)),
        timed=False,
        notes=notes,
    )


def _open_npz(path: Path) -> Clip:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            arrays_in_file = [name for name in names if name not in ("fps", "times")]
            name = (
                "frames" if "frames" in arrays_in_file else "".join(arrays_in_file[:1])
            )
            if not name or (len(arrays_in_file) > 1 and name != "frames"):
                raise ImageError(
                    f"the .npz must hold one array, or one named frames: it holds "
                    f"{', '.join(names) or 'nothing'}"
                )
            header = _read_header(archive, name)
            _refuse_array(name, header.shape, header.dtype)
            for other in {"fps", "times"} & set(names):
                _refuse_times(other, _read_header(archive, other), header.shape[0])
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays[name]
            times, timed = _array_times(arrays, len(frames))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"it cannot be read as an .npz: {one_line(error)}") from error
    return Clip(times=times, source=_ArraySource(frames=frames), timed=timed)


def _read_header(archive: zipfile.ZipFile, name: str) -> NpyHeader:
    """Return shape and type of an array before it is unpacked."""
    with archive.open(f"{name}.npy") as member:
        return read_npy_header(member)


def _refuse_times(name: str, header: NpyHeader, frames: int) -> None:
    """Refuse an array of times or a rate whose size says that it is none."""
    expected = frames if name == "times" else 1
    if math.prod(header.shape) == expected and header.dtype.kind in "fiu":
        return
    what = f"{frames} rising seconds, one a frame" if name == "times" else "one number"
    raise ImageError(f"its array {name} must hold {what}: got {list(header.shape)}")


def _refuse_array(name: str, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise ImageError(
            f"its array {name} must be uint8 [frames, height, width, 3]: got {dtype} "
            f"{list(shape)}"
        )
    if 0 in shape:
        raise ImageError(f"its array {name} has no frame: got {list(shape)}")
    _refuse_bulk(*shape[:3])


def _array_times(arrays: Any, count: int) -> tuple[np.ndarray, bool]:
    if "times" in arrays:
        times = np.asarray(arrays["times"], np.float64)
        if times.shape != (count,) or not (np.diff(times) > 0).all():
            raise ImageError(
                f"its array times must hold {count} rising seconds, one a frame: got "
                f"{list(times.shape)}"
            )
        return times, True
    if "fps" not in arrays:
        return _assumed_times(count), False
    rate = np.asarray(arrays["fps"], np.float64)
    if rate.size != 1 or not 0 < float(rate.reshape(())) < np.inf:
        raise ImageError("its fps must be one number above 0")
    return np.arange(count) / float(rate.reshape(())), True


def _refuse_bulk(count: int, height: int, width: int) -> None:
    size = count * height * width * 3
    if size > decoder_client.MAX_BYTES:
        raise ImageError(
            f"{count} frames of {width} x {height} pixels are {size / 2**30:.1f} GB; "
            f"at most {decoder_client.MAX_BYTES / 2**30:.0f} are accepted"
        )
