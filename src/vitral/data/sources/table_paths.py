"""Find the files that a table names, as other programs and systems write paths."""

import os
import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitral.data.names import canonical_name, is_storable
from vitral.data.sources.table_rows import ColumnError
from vitral.data.video import is_clip_path, is_image_path

MAX_SHOWN = 200
"""Characters of a path in a message."""


def shorten_path(file: Path) -> str:
    """Return a path for a message, cut in its middle if it is long."""
    text = str(file)
    half = MAX_SHOWN // 2
    return text if len(text) <= MAX_SHOWN else f"{text[:half]} ... {text[-half:]}"


class MissingFileError(ColumnError):
    """A row names a file that does not exist."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            "path",
            f"{shorten_path(file)} is no file; correct the path or remove the row",
        )
        self.file = file


@dataclass(frozen=True)
class PathFinder:
    """Find files below the folder of a table."""

    root: Path
    changed: dict[str, str] = field(default_factory=dict)
    """Paths as they are written, by those that the disk has."""
    _names: dict[Path, dict[str, str]] = field(default_factory=dict)
    """Names in a folder by their NFC form."""

    def find(self, value: Any, kind: str) -> str:
        """Return the path of a row relative to the root; outside of it, absolute.

        A path that does not exist as it is written is tried with "/" for its
        backslashes, and in the Unicode form that the disk has.

        Raises:
            MissingFileError: there is no such file.
            ColumnError: the path is empty, or a clip among images or the reverse.
        """
        if not isinstance(value, str) or not value.strip():
            noun = "a clip" if kind == "clips" else "an image file"
            raise ColumnError("path", f"it is empty; name {noun} or remove the row")
        is_whole = value != value.strip() and self._existing(value) == value
        written = value if is_whole else value.strip()
        if not is_storable(written):
            raise ColumnError(
                "path", f"{written!r} is not UTF-8; rename the file, or remove the row"
            )
        path = self._existing(written) or self._existing(written.replace("\\", "/"))
        if path is None:
            raise MissingFileError(self.root / posixpath.normpath(written))
        if path != posixpath.normpath(written) and not posixpath.isabs(written):
            self.changed[path] = written
        file = self.root / path
        if kind == "images" and is_clip_path(file) and not file.is_dir():
            raise ColumnError("path", f"{path!r} is a clip among images; keep one kind")
        if not file.is_file() and (kind == "images" or not file.is_dir()):
            raise MissingFileError(file)
        if kind == "clips" and is_image_path(file):
            raise ColumnError(
                "path",
                f"{path!r} is an image where a clip is needed; name a video file, an "
                ".npz or a folder of frames, or choose a model of images",
            )
        return path

    def notes(self) -> list[str]:
        """Return a sentence on the paths that the disk writes otherwise."""
        if not self.changed:
            return []
        path, written = next(iter(self.changed.items()))
        return [
            f"{len(self.changed)} path(s) of the table are written otherwise on the "
            f"disk, such as {written!r} for {path!r}"
        ]

    def _existing(self, written: str) -> str | None:
        path = posixpath.normpath(written)
        if posixpath.isabs(path):
            for base in (self.root.absolute(), self.root.resolve()):
                if Path(path).is_relative_to(base):
                    path = Path(path).relative_to(base).as_posix()
                    break
        if self._exists(path):
            return path
        if path.isascii():
            return None
        folder = self.root
        parts = []
        for part in Path(path).parts:
            name = part
            if not self._exists(folder / part):
                name = self._listing(folder).get(canonical_name(part), "")
                if not name:
                    return None
            parts.append(name)
            folder = folder / name
        return posixpath.join(*parts)

    def _exists(self, path: str | Path) -> bool:
        try:
            return (self.root / path).exists()
        except (OSError, ValueError):  # longer than a name may be, or with a NUL
            return False

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            self._names[folder] = {canonical_name(name): name for name in names}
        return self._names[folder]
