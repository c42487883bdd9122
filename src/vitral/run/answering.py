"""From batches of files to rows: the label and the most probable classes of each."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vitral.run.answer_files import Row
from vitral.run.folder import Run
from vitral.run.reading import Read, read_ahead


class Answers(NamedTuple):
    """How rows are made of files."""

    run: Run
    top: int
    workers: int | None


def rows(
    answers: Answers, batches: Iterable[Sequence[Path]]
) -> Iterator[tuple[Read, list[Row]]]:
    """Each batch of files with its rows, in their order."""
    for read in read_ahead(answers.run.preprocess, batches, answers.workers):
        yield read, rows_of(answers, read)


def rows_of(answers: Answers, read: Read) -> list[Row]:
    """The rows of one batch that is read."""
    run = answers.run
    table = np.empty((0, 0)) if read.pixels is None else run.probabilities(read.pixels)
    names = run.class_names(table.shape[1])
    order = np.argsort(-table, axis=1, kind="stable")[:, : max(answers.top, 1)]
    answered = iter(zip(table, order, strict=True))
    found = []
    for path, reason in zip(read.paths, read.reasons, strict=True):
        if reason:
            found.append(Row(path=str(path), error=reason))
            continue
        row, best = next(answered)
        found.append(
            Row(
                path=str(path),
                label=run.label(row, names),
                confidence=float(row[best[0]]),
                probabilities={names[k]: float(row[k]) for k in best[: answers.top]},
            )
        )
    return found


def place_model(run: Run, device: torch.device) -> None:
    """Move a model of tensors to the device; an exported one stays where it runs."""
    if any(True for _ in run.model.parameters()):
        run.model.to(device)
    run.model.eval()
