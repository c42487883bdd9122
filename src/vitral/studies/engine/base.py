"""Study and Trial: a question, the trainings that answer it, and a verdict.

scheduler.py trains, table.py holds the results, page.py writes them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vitral.studies.engine.table import ResultTable
from vitral.workflows import TrainConfig
from vitral.workflows.self_training import SelfTrainingConfig

Size = Literal["cpu", "paper"]
"""`cpu` answers in minutes on two cores; `paper` is the published setting."""

TableCell = tuple[str, str]
"""A row and a column of the table."""

STUDY_DIR = "STUDY"
"""First part of a path in `data` or `weights`: the study's folder, see `prepare`."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """The self-training part of a trial that is one round of it."""

    teacher: str
    """Key of the trial whose best model labels the images."""
    unlabelled: str
    truth: str
    """Table of their true classes, used for the report only; empty for none."""
    settings: SelfTrainingConfig


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a study."""

    row: str
    column: str = ""
    """Row and column: the cell of the table for its accuracy."""
    seed: int
    config: TrainConfig
    choice: str = ""
    """Trials of one cell and seed that differ in this compete: the best on val counts,
    with its accuracy on test."""
    after: str = ""
    """Key of the trial whose best model becomes `config.weights`; empty for none."""
    student: Student | None = None
    """Its self-training round; None for plain training."""
    counts: bool = True
    """False for a stage that only prepares others."""

    @property
    def key(self) -> str:
        """Return the unique name in the study, which also names the run folder."""
        parts = (self.row, self.column, self.choice, f"seed {self.seed}")
        return ", ".join(part for part in parts if part)

    @property
    def cell(self) -> TableCell:
        return self.row, self.column

    @property
    def depends_on(self) -> str:
        """Return the key of the trial that must finish first; empty for none."""
        return self.student.teacher if self.student is not None else self.after


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question of a paper, its trials and its verdict."""

    name: str
    """Argument of `vitral study`."""
    question: str
    source: str
    """Paper and section."""
    setting: Mapping[Size, str]
    """Description of data and models per size."""
    trials: Callable[[Size, Sequence[int]], list[Trial]]
    """Returns all trials of a size for the given seeds."""
    verdict: Callable[[ResultTable], str]
    """Returns sentences that compare the numbers, with the paper's too."""
    prepare: Callable[[Size, Sequence[int], Path], None] | None = None
    """Writes the files under STUDY_DIR into the study's folder; must leave those of an
    earlier start alone. None: there are none."""
    notes: Callable[[Size], list[str]] | None = None
    """Returns Markdown lines for the end of the page, computed without training."""
    measure: str = "test accuracy"
    """Name of the measure."""
    row_header: str = ""
    """Header of the table's first column."""
    paper_values: Mapping[TableCell, float] = field(default_factory=dict)
    """The paper's numbers by cell, 0..1."""
    paper_note: str = ""
    """Model, data and metric of the paper's numbers."""


def ordered_trials(study: Study, size: Size, seeds: Sequence[int]) -> list[Trial]:
    """Return the trials of a study, each after those it depends on.

    Raises:
        ValueError: a bug of the study: a repeated key, or a dependency that is not
            before its trial.
    """
    trials = study.trials(size, seeds)
    keys: set[str] = set()
    for trial in trials:
        if trial.key in keys:
            raise ValueError(f"The study {study.name} has two trials {trial.key!r}.")
        if trial.depends_on and trial.depends_on not in keys:
            raise ValueError(
                f"The trial {trial.key!r} of {study.name} begins after "
                f"{trial.depends_on!r}, which is not before it."
            )
        keys.add(trial.key)
    return trials
