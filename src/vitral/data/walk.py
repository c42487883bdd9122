"""Walk a folder for images or clips: the one rule of what a file is by its name.

Training, evaluation, prediction and every audit list files with it, and count what it
leaves out.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitral.data.hidden import reason_hidden
from vitral.data.images import IMAGE_EXTENSIONS, begins_as_image, reason_unread
from vitral.data.names import is_storable
from vitral.data.order import natural_key
from vitral.data.video import CLIP_EXTENSIONS, frame_files, has_clips

_SHOWN_REASONS = 8


@dataclass(kw_only=True)
class FolderWalk:
    """Walk over a folder; paths are POSIX and relative to the root."""

    root: Path
    kind: Literal["images", "clips"]
    sort_key: Callable[[str], Any] = natural_key
    """Order of the names in one folder."""
    any_name: bool = False
    """Read names that are not UTF-8, which a data set cannot store."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of files and folders that are no example, by reason."""
    _visited: set[tuple[int, int]] = field(default_factory=set)

    def files(self, folders: Iterable[str] = ("",)) -> Iterator[tuple[str, str]]:
        """Yield (folder, path) of images, or clips, at any depth below the folders.

        A folder is read once, under its own name if it has one here: links to folders
        are followed after all else, and those to a folder that is read are left out.
        """
        self._enter("")
        waiting = deque((name, name) for name in sorted(folders, key=self._is_link))
        while waiting:
            owner, folder = waiting.popleft()
            links: list[str] = []
            for path in self._walk(folder, links, is_start=folder == owner):
                yield owner, path
            waiting.extend((owner, link) for link in links)

    def entries(self, folder: str) -> Iterator["os.DirEntry[str]"]:
        """Yield sub-folders and files of this kind in order; count the others."""
        try:
            with os.scandir(self.root / folder) as listing:
                entries = sorted(listing, key=lambda entry: self.sort_key(entry.name))
        except OSError as error:
            self.ignore(folder, f"folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            if self.takes(entry, _join(folder, entry.name)):
                yield entry

    def takes(self, entry: "os.DirEntry[str] | Path", path: str = "") -> bool:
        """Return whether a file or folder may be read; count it if it may not.

        Args:
            path: the name to count it under; empty for its own.
        """
        reason = "" if self.any_name else _reason_by_encoding(entry.name)
        reason = reason or _reason_to_ignore(entry) or self._reason_by_extension(entry)
        if reason:
            self.ignore(path or os.fspath(entry), reason)
        return not reason

    def ignore(self, path: str, reason: str) -> None:
        """Count a file or folder that is left out."""
        self.left_out[reason_group(path, reason)] += 1

    def _walk(
        self, folder: str, links: list[str], *, is_start: bool = False
    ) -> Iterator[str]:
        if folder and not self._enter(folder):
            self.ignore(folder, "symbolic link to a folder that is read already")
            return
        if not is_start and self._is_clip(folder):
            yield folder
            return
        for entry in self.entries(folder):
            path = _join(folder, entry.name)
            if not entry.is_dir():
                yield path
            elif entry.is_symlink():
                links.append(path)
            else:
                yield from self._walk(path, links)

    def _enter(self, folder: str) -> bool:
        """Return False if a folder was entered before, under whatever name."""
        try:
            status = (self.root / folder).stat()
        except OSError:
            return True  # `entries` says why it cannot be read
        identity = (status.st_dev, status.st_ino)
        if identity in self._visited:
            return False
        self._visited.add(identity)
        return True

    def _is_link(self, folder: str) -> bool:
        return (self.root / folder).is_symlink()

    def _reason_by_extension(self, entry: "os.DirEntry[str] | Path") -> str:
        """Return why a file is no example by its name; "" if it is one."""
        if entry.is_dir():
            return ""
        extension = os.path.splitext(entry.name)[1].lower()
        if self.kind == "clips":
            known = extension in CLIP_EXTENSIONS
            return "" if known else "not a clip by its extension"
        if extension in IMAGE_EXTENSIONS:
            return ""
        # Without an extension, or with a number such as that of a scan, bytes decide.
        if not extension[1:] or extension[1:].isdigit():
            return "" if begins_as_image(Path(entry)) else "not an image"
        return reason_unread(extension) or "not an image by its extension"

    def _is_clip(self, folder: str) -> bool:
        return self.kind == "clips" and is_frame_folder(self.root / folder)


def is_frame_folder(folder: Path) -> bool:
    """Return whether a folder holds frames: images, no clip and no folder."""
    try:
        return bool(frame_files(folder)) and not has_clips(folder)
    except OSError:
        return False  # the walk says why it cannot be read


def reason_group(path: str, reason: str) -> str:
    """Return the words under which a file that is left out is counted."""
    extension = os.path.splitext(path)[1].lower()
    by_extension = reason.startswith(("needs", "is not", "not an image by", "not a cl"))
    return f"{extension}: {reason}" if extension and by_extension else reason


def left_out_line(left_out: Counter[str], used: int) -> str:
    """Return the one line on what is left out; "" if nothing is.

    Args:
        left_out: number of files and folders by reason.
        used: number of files that are read.
    """
    count = left_out.total()
    if not count:
        return ""
    reasons = [f"{n} {why}" for why, n in left_out.most_common(_SHOWN_REASONS)]
    more = len(left_out) - len(reasons)
    listed = "; ".join([*reasons, *([f"{more} reasons more"] if more else [])])
    return f"left out: {count:,} of {count + used:,} files ({listed})"


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _reason_by_encoding(name: str) -> str:
    return "" if is_storable(name) else "name is not UTF-8; rename it to use it"


def _reason_to_ignore(entry: "os.DirEntry[str] | Path") -> str:
    reason = reason_hidden(entry.name)
    if reason:
        return reason
    try:
        if entry.is_dir():
            return ""
        is_file = entry.is_file()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not is_file:
        if entry.is_symlink():
            return "symbolic link that leads nowhere"
        return "not a regular file"
    return ""
