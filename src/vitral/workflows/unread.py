"""Count the images that a pass could not read: each is a wrong answer, never less data.

The audit before a run may see a sample only, and files can vanish or be cut while a run
trains. A result whose images dwindle without a word would rise.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vitral.atomic_io import write_json
from vitral.data import BadFile, Example, Failure

logger = logging.getLogger(__name__)


def find_unread(
    examples: Sequence[Example], seen: Iterable[str], reasons: Mapping[str, str]
) -> tuple[BadFile, ...]:
    """Return the examples that no batch held, in their order.

    Args:
        seen: ids of the examples in the batches.
        reasons: what was wrong with a file, by id.
    """
    known = set(seen)
    return tuple(
        BadFile.from_example(example, reasons.get(example.id, "it was not read"))
        for example in examples
        if example.id not in known
    )


def find_failures(
    examples: Sequence[Example], failures: Sequence[Failure]
) -> tuple[BadFile, ...]:
    """Return the examples that a loader could not decode, in their order."""
    reasons = dict(failures)
    seen = [example.id for example in examples if example.id not in reasons]
    return find_unread(examples, seen, reasons)


def record_unread(run: Path, files: Sequence[BadFile]) -> None:
    """Log files that could not be read, and add them to `bad` in data.json."""
    if not files:
        return
    for file in files:
        logger.warning("unreadable: %s (%s): %s", file.path, file.split, file.reason)
    path = run / "data.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    known = {row["path"] for row in document["bad"]}
    document["bad"] += [
        {"path": file.path, "reason": file.reason, "split": file.split}
        for file in files
        if file.path not in known
    ]
    write_json(path, document)
