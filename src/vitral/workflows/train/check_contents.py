"""Check that a resumed run sees the pictures that it began with."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from vitral.atomic_io import write_atomic
from vitral.data import Audit
from vitral.data.contents import (
    FileContent,
    find_changes,
    format_contents,
    hash_contents,
    measure_contents,
    parse_contents,
)
from vitral.data.dataset import shorten_names
from vitral.errors import DataError
from vitral.workflows.session import Session

logger = logging.getLogger(__name__)

CONTENTS_FILE = "contents.csv"


@dataclass(frozen=True, slots=True)
class ContentCheck:
    """Content of a run's files, and the changes that were accepted."""

    key: str
    """SHA-256 of the content of all files."""
    changes: tuple[str, ...]
    """A sentence for each accepted change since the run began."""


def check_contents(audit: Audit, session: Session) -> ContentCheck:
    """Compare the files with those that the run began with, and write contents.csv.

    Raises:
        DataError: a run that is resumed finds other content under the same names, and
            `session.data_changed` is false.
    """
    file = session.out / CONTENTS_FILE
    contents = measure_contents(audit.dataset, audit.digests)
    has_begun = session.resume and (session.out / "config.json").is_file()
    before = _read_contents(file) if has_begun and file.is_file() else {}
    changed = find_changes(before, contents)
    changes = _read_accepted(session.out) if session.resume else ()
    if changed and not session.data_changed:
        raise DataError(
            f"{len(changed)} of {len(contents)} files of {audit.dataset.root} changed "
            f"since the run in {session.out} began: {shorten_names(changed)}. The "
            "model has learned from the old ones. Restore them, start a new run in "
            "another folder, or pass `data_changed` to go on with the new ones."
        )
    if changed:
        sentence = (
            f"{len(changed)} of {len(contents)} files changed while the run was "
            f"stopped, which was accepted: {shorten_names(changed)}"
        )
        logger.warning("%s", sentence)
        changes = (*changes, sentence)
    if contents != before:
        write_atomic(file, format_contents(contents))
    return ContentCheck(hash_contents(contents), changes)


def _read_contents(file: Path) -> dict[str, FileContent]:
    try:
        return parse_contents(file.read_text("utf-8").splitlines(keepends=True))
    except (DataError, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read, so that nothing says whether the data is still "
            f"the same: {error} Restore it, or start a new run in another folder."
        ) from error


def _read_accepted(out: Path) -> tuple[str, ...]:
    try:
        data = json.loads((out / "data.json").read_text("utf-8"))
        return tuple(str(change) for change in data.get("changes", ()))
    except (OSError, ValueError, AttributeError, TypeError):
        return ()
