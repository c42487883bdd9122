"""Clips whose every frame shows its own number, so that a wrong frame is seen."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 80, 48
ROWS, COLUMNS = 2, 5
"""Blocks of 24 x 16 pixels, one a bit: large enough to outlive any compression."""


def drawn(number: int) -> np.ndarray:
    """uint8 [48, 80, 3] with the bits of a number 0..1023 as light and dark blocks."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS)])
    blocks = np.where(bits, 230, 25).reshape(ROWS, COLUMNS).astype(np.uint8)
    grey = blocks.repeat(HEIGHT // ROWS, 0).repeat(WIDTH // COLUMNS, 1)
    return np.stack([grey] * 3, axis=-1)


def number_in(image: Image.Image | np.ndarray) -> int:
    """The number that a frame shows, whatever its size."""
    grey = np.asarray(image).astype(float).mean(axis=2)
    height, width = grey.shape[0] / ROWS, grey.shape[1] / COLUMNS
    number = 0
    for bit in range(ROWS * COLUMNS):
        row, column = divmod(bit, COLUMNS)
        top, left = int((row + 0.3) * height), int((column + 0.3) * width)
        block = grey[top : int((row + 0.7) * height) + 1]
        number |= (
            int(block[:, left : int((column + 0.7) * width) + 1].mean() > 128) << bit
        )
    return number


def write_video(
    path: Path,
    frames: int = 60,
    *,
    codec: str = "libx264",
    rate: int = 25,
    milliseconds: list[int] | None = None,
    rotation: int = 0,
    sound: bool = False,
    first: int = 0,
    **options: str,
) -> None:
    """Write a video with sparse key frames and frames that refer to later ones.

    Args:
        milliseconds: when each frame begins, for a variable rate; None for `rate`.
        rotation: degrees against the clock that a player must turn it.
        first: the number that the first frame shows.
    """
    tick = Fraction(1, rate) if milliseconds is None else Fraction(1, 1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = options
        stream.codec_context.time_base = tick
        if rotation:
            stream.set_display_rotation(rotation)
        track = container.add_stream("aac", rate=8000) if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawn(first + number), format="rgb24")
            frame.pts = number if milliseconds is None else milliseconds[number]
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            container.mux([*track.encode(_silence()), *track.encode(None)])


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=8000)
        container.mux([*track.encode(_silence()), *track.encode(None)])


def write_folder(folder: Path, frames: int, first: int = 0) -> None:
    """PNG frames 1.png, 2.png, ..., 10.png: names that sort wrongly as text."""
    folder.mkdir(parents=True)
    for number in range(frames):
        Image.fromarray(drawn(first + number)).save(folder / f"{number + 1}.png")


def write_npz(path: Path, frames: int, first: int = 0, **others: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.stack([drawn(first + number) for number in range(frames)])
    np.savez_compressed(path, frames=pixels, **others)


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 8000
    return frame


MOTIONS = ("left", "right")


def moving_square(label: int, number: int, frames: int = 12) -> np.ndarray:
    """uint8 [frames, 32, 48, 3]: a light square that goes to the left or the right; the
    ground is darker in one class, so that a tiny model learns something at once."""
    generator = np.random.default_rng([label, number])
    clip = generator.normal(60 + 60 * label, 10, (frames, 32, 48, 3))
    top = int(generator.integers(0, 24))
    for frame in range(frames):
        place = round(frame * 40 / (frames - 1))
        left = place if label else 40 - place
        clip[frame, top : top + 8, left : left + 8] += 90
    return clip.clip(0, 255).astype(np.uint8)


def make_clips(
    root: Path,
    *,
    splits: tuple[str, ...] = ("train", "val", "test"),
    per_class: int = 8,
) -> Path:
    """ROOT/split/class/...: .npz arrays, a video file and a folder of frames each."""
    number = 0
    for split in splits or ("",):
        for label, name in enumerate(MOTIONS):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                number += 1
                clip = moving_square(label, number, frames=12 + index)
                if index == 0:
                    (folder / "take 0").mkdir()
                    for place, frame in enumerate(clip):
                        Image.fromarray(frame).save(folder / "take 0" / f"{place}.png")
                elif index == 1:
                    _write(folder / "1.mp4", clip)
                else:
                    np.savez(folder / f"{index}.npz", clip)
    return root


def _write(path: Path, clip: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
