"""Rows of predictions: a model over batches of files, in the order of the files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitral.workflows.predict.prefetch import FileBatch, prefetch_batches
from vitral.workflows.predict.writers import (
    PredictionRow,
)
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
    table = (
        np.empty((0, 0)) if batch.pixels is None else run.probabilities(batch.pixels)
    )
    names = run.class_names(table.shape[1])
    order = np.argsort(-table, axis=1, kind="stable")[:, : max(options.top, 1)]
    predictions = iter(zip(table, order, strict=True))
    rows = []
    for path, reason in zip(batch.paths, batch.reasons, strict=True):
        if reason:
            rows.append(PredictionRow(path=str(path), error=reason))
            continue
        probabilities, best = next(predictions)
        rows.append(
            PredictionRow(
                path=str(path),
                label=run.top_label(probabilities, names),
                confidence=float(probabilities[best[0]]),
                probabilities={
                    names[k]: float(probabilities[k]) for k in best[: options.top]
                },
            )
        )
    return rows


def move_model(run: Run, device: torch.device) -> None:
    """Move a model with parameters to the device; an exported one stays in place."""
    if any(True for _ in run.model.parameters()):
        run.model.to(device)
    run.model.eval()
