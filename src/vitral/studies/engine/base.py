"""What a study is: a question, the trainings that answer it, and a verdict.

A study is one module of this room with a `STUDY`; it is found by its file. Nothing here
trains: lab.py does, table.py holds what came out, page.py writes it down.
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
"""First part of a path in a trial's `data` or `weights` that `prepare` has written
into the study's folder."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """What makes a trial one round of self-training."""

    teacher: str
    """The key of the trial whose best model labels the images."""
    unlabelled: str
    truth: str
    """Their true classes, for the page of the labels alone; empty for none."""
    settings: SelfTrainingConfig


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a study."""

    row: str
    column: str = ""
    """Where in the table its accuracy goes."""
    seed: int
    config: TrainConfig
    choice: str = ""
    """Trials of one place and seed that differ in this compete: the one that is best
    on val counts, and its accuracy on test is what the table shows."""
    after: str = ""
    """The key of the trial whose best model this one begins with; `config.weights` is
    then put there. Empty for none."""
    student: Student | None = None
    """Whom this trial learns from beside its data; None for nobody."""
    counts: bool = True
    """False for a stage that only prepares others."""

    @property
    def key(self) -> str:
        """Unique in the study, and the name of the run's folder."""
        words = (self.row, self.column, self.choice, f"seed {self.seed}")
        return ", ".join(word for word in words if word)

    @property
    def cell(self) -> TableCell:
        return self.row, self.column

    @property
    def depends_on(self) -> str:
        """The key of the trial that must have ended before; empty for none."""
        return self.student.teacher if self.student is not None else self.after


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question of a paper, and how it is answered here."""

    name: str
    """The word after `vitral study`."""
    question: str
    source: str
    """Where the paper asks it."""
    setting: Mapping[Size, str]
    """Sentences on the data and the models of each size."""
    trials: Callable[[Size, Sequence[int]], list[Trial]]
    """All trainings of a size, for these seeds."""
    verdict: Callable[[ResultTable], str]
    """The verdict: sentences that say what the numbers show, against the paper too."""
    prepare: Callable[[Size, Sequence[int], Path], None] | None = None
    """Writes what the trials name below HERE into the study's folder; must leave
    alone what an earlier start wrote. None where all data has a name."""
    notes: Callable[[Size], list[str]] | None = None
    """Lines of Markdown that are computed, not trained, for the end of the page."""
    measure: str = "test accuracy"
    """What the numbers are."""
    row_header: str = ""
    """What the rows are, over the first column of the table."""
    paper_values: Mapping[TableCell, float] = field(default_factory=dict)
    """The paper's numbers, shares, of the places that it has."""
    paper_note: str = ""
    """What the paper measured: model, data, metric; or that it has a graph only."""


def ordered_trials(study: Study, size: Size, seeds: Sequence[int]) -> list[Trial]:
    """The trials of a study in an order in which each can begin.

    Raises:
        ValueError: two trials have one key, or one begins after a trial that is not
            before it. This is an error of the study's author.
    """
    trials = study.trials(size, seeds)
    known: set[str] = set()
    for trial in trials:
        if trial.key in known:
            raise ValueError(f"The study {study.name} has two trials {trial.key!r}.")
        if trial.depends_on and trial.depends_on not in known:
            raise ValueError(
                f"The trial {trial.key!r} of {study.name} begins after "
                f"{trial.depends_on!r}, which is not before it."
            )
        known.add(trial.key)
    return trials
