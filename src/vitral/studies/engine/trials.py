"""Designs of studies: every cell of a grid, or one fine-tune from several starts."""

from collections.abc import Callable, Iterable, Sequence

from vitral.studies.engine.base import Size, TableCell, Trial
from vitral.studies.engine.table import ResultTable
from vitral.workflows import TrainConfig

FROM_SCRATCH = "from zero"
"""Row of the fine-tune without pre-training."""

TrialsFn = Callable[[Size, Sequence[int]], list[Trial]]


def grid_trials(
    cells: Callable[[Size], Iterable[TableCell]],
    config: Callable[[Size, str, str, int], TrainConfig],
) -> TrialsFn:
    """Return the trials of a study with one training per cell and seed.

    Args:
        cells: the rows and columns of a size.
        config: the settings by size, row, column and seed.
    """

    def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
        return [
            Trial(
                row=row,
                column=column,
                seed=seed,
                config=config(size, row, column, seed),
            )
            for seed in seeds
            for row, column in cells(size)
        ]

    return trials


def transfer_trials(
    rows: Iterable[str],
    pretraining: Callable[[Size, str, int], TrainConfig],
    finetuning: Callable[[Size, str, int], TrainConfig],
) -> TrialsFn:
    """Return the trials of one fine-tune: from zero, and after each pre-training.

    Args:
        rows: names of the pre-trainings.
        pretraining: the settings by size, row and seed.
        finetuning: the settings by size, key of the pre-training (empty for none) and
            seed.
    """

    def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
        planned = []
        for seed in seeds:
            config = finetuning(size, "", seed)
            planned.append(Trial(row=FROM_SCRATCH, seed=seed, config=config))
            for row in rows:
                before = Trial(
                    row=f"pre-training, {row}",
                    seed=seed,
                    config=pretraining(size, row, seed),
                    counts=False,
                )
                config = finetuning(size, before.key, seed)
                after = Trial(row=row, seed=seed, config=config, after=before.key)
                planned += [before, after]
        return planned

    return trials


def describe_pretraining_gains(table: ResultTable) -> str:
    """Compare the fine-tune after each pre-training with that from zero."""
    sentences = []
    for row in table.rows:
        if row != FROM_SCRATCH:
            gap = table.difference((row, ""), (FROM_SCRATCH, ""))
            finding = gap.choose(
                f"Pre-training pays ({row}): {gap} over from zero.",
                f"Pre-training harms here ({row}): {gap}.",
                f"Pre-training ({row}) is not apart from zero: {gap}.",
            )
            sentences.append(finding)
    return " ".join(sentences)
