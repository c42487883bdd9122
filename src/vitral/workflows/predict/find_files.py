"""Find images or clips by file, by folder at any depth, or by glob pattern."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitral.data import InputKind
from vitral.data.images import IMAGE_EXTENSIONS
from vitral.data.video import CLIP_EXTENSIONS as CLIP_EXTENSIONS
from vitral.data.video import frame_files, has_clips
from vitral.errors import ConfigError


def find_files(
    patterns: Iterable[str | Path], kind: InputKind = "images"
) -> Iterator[Path]:
    """Yield the images or clips of `patterns`, those of a folder sorted by name.

    Memory holds the names of one folder and of the folders above it, not all names.

    Raises:
        ConfigError: a pattern matches nothing, or a folder holds none.
    """
    is_wanted = _is_clip if kind == "clips" else _is_image
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file() or (path.is_dir() and is_wanted(path)):
            yield path
            continue
        count = 0
        for file in _walk(path) if path.is_dir() else _glob(path):
            if is_wanted(file):
                count += 1
                yield file
        if not count:
            raise ConfigError(
                f"No {kind[:-1]} at {pattern}: give files, folders or patterns."
            )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder in the order of paths sorted part by part."""
    try:
        with os.scandir(folder) as entries:
            children = sorted(
                (e.name, e.is_dir(follow_symlinks=False)) for e in entries
            )
    except PermissionError as error:
        raise ConfigError(
            f"{folder} cannot be listed: {error.strerror}. Change its permissions, or "
            "name the files that you may read."
        ) from error
    for name, is_folder in children:
        yield folder / name
        if is_folder:
            yield from _walk(folder / name)


def _glob(pattern: Path) -> Iterator[Path]:
    base = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return iter(sorted(base.glob(str(pattern.relative_to(pattern.anchor)))))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file()


def _is_clip(path: Path) -> bool:
    """Return whether it is a video, an .npz, or a folder that holds only frames."""
    if path.is_file():
        return path.suffix.lower() in CLIP_EXTENSIONS
    return path.is_dir() and bool(frame_files(path)) and not has_clips(path)
