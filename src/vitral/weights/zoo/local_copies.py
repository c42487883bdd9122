"""Copies of named weights in the caches of other programs, checked before use."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vitral.weights.zoo.download import hash_file
from vitral.weights.zoo.record import Record


def find_hub_snapshot(
    repository: str, revision: str, names: tuple[str, ...]
) -> Path | None:
    """Return a folder of Hugging Face's cache that has one of the files.

    Args:
        revision: branch or commit; empty for `main`.
        names: tensor files, one of which is enough.
    """
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = revision or "main"
    if not re.fullmatch("[0-9a-f]{40}", commit):
        reference = folder / "refs" / commit
        if not reference.is_file():
            return None
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / commit
    return snapshot if any((snapshot / name).is_file() for name in names) else None


def is_intact(file: Path) -> bool:
    """Return whether a file of Hugging Face's cache has the bytes that it is named for.

    The cache holds a file under its checksum, behind a link. A copy without the link
    has no such name: it cannot be checked, and is taken.
    """
    digest = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", digest):
        return hash_file(file, "sha256") == digest
    if re.fullmatch("[0-9a-f]{40}", digest):
        return hash_file(file, "git") == digest
    return True


def find_official_copy(record: Record) -> Path | None:
    """Return the authors' file from torch's cache, if it has the known checksum."""
    if not record.official or not record.checksum:
        return None
    algorithm, _, expected = record.checksum.partition(":")
    for folder in _torch_folders():
        file = folder / record.official.rpartition("/")[2]
        if file.is_file() and hash_file(file, algorithm).startswith(expected):
            return file
    return None


def _torch_folders() -> Iterator[Path]:
    home = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    yield Path(home or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def take_copy(source: Path, target: Path) -> None:
    """Put a file at `target` with no second copy of its bytes where that can be."""
    partial = target.with_name(f".{target.name}.copy")
    partial.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)
