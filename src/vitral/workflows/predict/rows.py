"""Rows of predictions: a model over batches of files, in the order of the files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vitral.workflows.predict.prefetch import FileBatch, prefetch_batches
from vitral.workflows.predict.writers import PredictionRow
from vitral.workflows.run import Run


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """The model, and how it turns files into rows."""

    run: Run
    top: int
    """Classes per row."""
    workers: int | None
    """Processes that read ahead; see `prefetch_batches`."""


def predict_rows(
    options: PredictOptions, batches: Iterable[Sequence[Path]]
) -> Iterator[tuple[FileBatch, list[PredictionRow]]]:
    """Yield each batch of files with its rows, in order."""
    for batch in prefetch_batches(options.run.preprocess, batches, options.workers):
        yield batch, predict_batch_rows(options, batch)


def predict_batch_rows(
    options: PredictOptions, batch: FileBatch
) -> list[PredictionRow]:
    """Return the rows of one decoded batch."""
    run = options.run
    answers = iter(
        ()
        if batch.pixels is None
        else run.decode(
            run.predict_outputs(batch.pixels), top=options.top, sizes=batch.sizes
        )
    )
    return [
        PredictionRow(str(path), error=reason)
        if reason
        else PredictionRow(str(path), next(answers))
        for path, reason in zip(batch.paths, batch.reasons, strict=True)
    ]


def move_model(run: Run, device: torch.device) -> None:
    """Move a model to the device that computes, ready to answer."""
    run.model.to(device)
    run.model.eval()
