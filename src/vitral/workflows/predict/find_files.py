"""Find images or clips by file, by folder at any depth, or by glob pattern."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vitral.data import InputKind
from vitral.data.hidden import reason_hidden
from vitral.data.walk import FolderWalk, is_frame_folder, left_out_line
from vitral.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Listing(FolderWalk):
    def ignore(self, path: str, reason: str) -> None:
        if reason.startswith("folder cannot be read"):
            raise ConfigError(
                f"{self.root / path} cannot be listed{reason.partition('read')[2]}. "
                "Change its permissions, or name the files that you may read."
            )
        super().ignore(path, reason)


def find_files(
    patterns: Iterable[str | Path], kind: InputKind = "images"
) -> Iterator[Path]:
    """Yield the images or clips of `patterns`, those of a folder sorted by name.

    A file that is named is taken as it is. Memory holds the names of one folder and of
    the folders above it, not all names. What a folder or a pattern leaves out is
    logged in one line with the reasons.

    Raises:
        ConfigError: a pattern matches nothing, or a folder holds none.
    """
    left_out: Counter[str] = Counter()
    used = 0
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file() or (
            kind == "clips" and path.is_dir() and is_frame_folder(path)
        ):
            used += 1
            yield path
            continue
        walks: list[FolderWalk] = []
        files = _walk(path, kind, walks) if path.is_dir() else _glob(path, kind, walks)
        count = 0
        for file in files:
            count += 1
            yield file
        used += count
        reasons = sum((walk.left_out for walk in walks), Counter[str]())
        if not count:
            line = left_out_line(reasons, 0)
            raise ConfigError(
                f"No {kind[:-1]} at {pattern}: give files, folders or patterns."
                f"{' ' + line[0].upper() + line[1:] + '.' if line else ''}"
            )
        left_out += reasons
    line = left_out_line(left_out, used)
    if line:
        logger.info("%s", line)


def _walk(folder: Path, kind: InputKind, walks: list[FolderWalk]) -> Iterator[Path]:
    """Yield the files of a folder in the order of paths sorted part by part."""
    walk = _Listing(root=folder, kind=kind, sort_key=str, any_name=True)
    walks.append(walk)
    for _, path in walk.files():
        yield folder / path


def _glob(pattern: Path, kind: InputKind, walks: list[FolderWalk]) -> Iterator[Path]:
    """Yield the files that a pattern matches, and those of the folders it matches."""
    walk = _Listing(root=Path(), kind=kind, any_name=True)
    walks.append(walk)
    text = "/".join(map(_to_pathlib, pattern.relative_to(pattern.anchor).parts))
    text += "/*" if text.endswith("**") else ""
    base = Path(pattern.anchor) if pattern.is_absolute() else Path()
    fixed = len(base.parts) + next(
        (i for i, part in enumerate(Path(text).parts) if set(part) & set("*?[")), 0
    )
    for path in sorted(base.glob(text)):
        hidden = next(filter(None, map(reason_hidden, path.parts[fixed:])), "")
        if hidden:
            walk.ignore(str(path), hidden)
        elif path.is_dir() and not (kind == "clips" and is_frame_folder(path)):
            if "**" not in text:
                yield from _walk(path, kind, walks)
        elif walk.takes(path):
            yield path


def _to_pathlib(part: str) -> str:
    """Return a part of a pattern with "**" alone, as pathlib takes it.

    "**.png" means any depth, as "**/*.png"; elsewhere in a name "**" is "*".
    """
    if part == "**":
        return part
    start = "**/*" if part.startswith("**") else ""
    return start + re.sub(r"\*\*+", "*", part[2:] if start else part)
