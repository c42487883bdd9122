"""Interface of a task: what a model is asked, and how well it answers.

A task is a folder here, or a package with an entry point of the group `vitral.tasks`.
Other rooms talk to this interface only. Every method that has a body is a default that
most tasks take.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitral.data import Dataset, Preprocess, Size, SourceFacts
from vitral.errors import ConfigError
from vitral.tasks.answer import Answer
from vitral.tasks.fitted_head import FittedHead
from vitral.tasks.labels import Labels
from vitral.tasks.monitor import Monitor, MonitorContext
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.presentation import Fact, Field, Presentation
from vitral.tasks.probe import ProbeInput, ProbeRow, ProbeSettings
from vitral.tasks.result import Metric, Result, SecondResult

if TYPE_CHECKING:
    from vitral.tasks.reporter import Reporter  # slow to import: it draws

Use = Literal["features", "pseudo-labels", "tune-speed"]
"""Jobs that not every kind of label fits."""


@dataclass(frozen=True, kw_only=True)
class TrainingUse:
    """Settings of a run that an objective may have to refuse."""

    data: str
    monitor: str
    mixes: bool
    """True if images of a batch are blended."""
    caches: bool
    """True if outputs of frozen blocks take the place of the images."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveContext:
    """Facts that an objective is built from, beside its settings and its model."""

    preprocess: Preprocess
    names: tuple[str, ...]
    """Names of the data set's categories."""
    labels: Labels
    fresh: bool = False
    """True for a model without weights from a file."""
    teacher: nn.Module | None = None
    """Second model of an objective that needs one; None: the one it names."""


@dataclass(frozen=True, kw_only=True)
class AnswerContext:
    """Facts that turn outputs into answers."""

    labels: Labels
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Plain data that is stored with the model, such as what was fitted on val."""
    top: int | None = None
    """Number of names to list with an answer; None for all."""
    sizes: tuple[Size, ...] = ()
    """Height and width of each upright picture; empty where they are unknown."""
    preprocess: Preprocess | None = None
    """Preprocessing between the pictures and the model's input."""


class Task(FittedHead, ABC):
    """One kind of question to a model. Instances have no state."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other words that `--task` takes."""
    priority: ClassVar[int] = 100
    """Rank among tasks that fit the same data; the lowest one wins."""
    objectives: ClassVar[tuple[type[ObjectiveConfig], ...]]
    """Settings of what can be learned; the first one is the default."""
    results: ClassVar[tuple[type[Result], ...]] = ()
    """Results that `predictions/` of a run may hold."""
    has_answers: ClassVar[bool] = True
    """False if a trained model gives features only."""
    label_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of `Labels.extra`, by which models from before the key `task` are known."""
    metadata_keys: ClassVar[Mapping[str, Any]] = {}
    """Values that are fitted on val and stored with a model, with their defaults."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss"})
    """Monitored metrics whose smallest value is the best."""
    score_name: ClassVar[str] = "accuracy"
    """Word for the mean of `score`."""

    # Data

    def fits(self, source: SourceFacts) -> str:
        """Return why this task fits a source, in a few words; empty if it does not."""
        return ""

    def columns(
        self, settings: ObjectiveConfig, source: SourceFacts
    ) -> tuple[str, ...]:
        """Return the columns of a table that hold the targets; empty for `label`."""
        return ()

    def list_examples(self, data: str, settings: ObjectiveConfig) -> Dataset | None:
        """List a source of the task's own layout; None for vitral's sources."""
        return None

    def read_labels(self, dataset: Dataset, settings: ObjectiveConfig) -> Dataset:
        """Return the data set with the targets that the task learns.

        Raises:
            DataError: the source holds none, or none that can be learned.
        """
        return dataset

    @abstractmethod
    def labels_of(self, dataset: Dataset) -> Labels:
        """Return the outputs that a head for this data set has."""

    def load_labels(self, names: tuple[str, ...], extra: Mapping[str, Any]) -> Labels:
        """Return the outputs of a stored model."""
        return Labels(names=names)

    def resolve_settings(
        self, settings: ObjectiveConfig, dataset: Dataset
    ) -> tuple[ObjectiveConfig, tuple[str, ...]]:
        """Return the settings with all that the data decides, and notes on it.

        Raises:
            ConfigError: they name what the data has not.
        """
        return settings, ()

    def align(self, dataset: Dataset, labels: Labels) -> Dataset:
        """Return the data set with the outputs of a model as its targets.

        Raises:
            DataError: the data set holds what the model does not know.
        """
        return dataset

    def check_metadata(self, metadata: Mapping[str, Any], labels: Labels) -> None:
        """Check what is stored with a model, where it decides answers.

        Raises:
            WeightsError: a value cannot be one that this task wrote.
        """
        return

    def claims(self, extra: Mapping[str, Any], num_outputs: int) -> bool:
        """Return whether a model that names no task is one of this task."""
        return False

    def describe(self, labels: Labels) -> str:
        """Return the outputs in a few words, such as `6 classes`."""
        count = len(labels.names)
        return f"{count} output{'s' * (count != 1)}"

    def problem_type(self, labels: Labels) -> str:
        """Return Hugging Face's word for the task; empty if it has none."""
        return ""

    def require(self, use: Use, labels: Labels, subject: str) -> None:
        """Check that labels fit a job.

        Raises:
            ConfigError, DataError: they do not; the message says why.
        """
        if use == "pseudo-labels":
            raise ConfigError(
                f"{subject} is a model of {self.name}, and pseudo-labels are for "
                "images of one class: give a classifier."
            )

    # Training

    def default_objective(self, labels: Labels, smoothing: float) -> ObjectiveConfig:
        """Return the settings for these labels, where a recipe names no others."""
        return self.objectives[0]()

    def validate(
        self, settings: ObjectiveConfig, labels: Labels, use: TrainingUse
    ) -> None:
        """Refuse before the first step what the objective would refuse at it.

        Raises:
            ConfigError: settings, labels and run do not fit together.
        """
        return

    @abstractmethod
    def build_objective(
        self, settings: ObjectiveConfig, model: nn.Module, context: ObjectiveContext
    ) -> nn.Module:
        """Return the module around `model` whose forward gives the loss of a batch."""

    def dummy_target(self, images: int, outputs: int) -> Any:
        """Return the target of a batch of the right shapes, uninitialised.

        Args:
            outputs: width of the head.
        """
        return torch.empty(images, outputs)

    def make_monitor(self, context: MonitorContext) -> Monitor:
        """Return the measurement during training, where a model has no answers.

        Raises:
            ConfigError: the task has `has_answers = False`, and no such measurement.
        """
        raise ConfigError(
            f"The task {self.name} has no answers and defines no `make_monitor`, so "
            "its training cannot be measured: define one."
        )

    def student_smoothing(self, settings: ObjectiveConfig) -> float:
        """Return the label smoothing of a student that learns from pseudo-labels.

        Raises:
            ConfigError: the objective cannot learn from them.
        """
        raise ConfigError(
            f"`{settings.NAME}` cannot learn from pseudo-labels: train with "
            "`objective=supervised`."
        )

    # Answers

    def average(self, outputs: Sequence[Tensor], labels: Labels) -> Tensor:
        """Return the outputs of several views of the same pictures as one."""
        return torch.stack(list(outputs)).mean(0)

    @abstractmethod
    def decode(self, outputs: Tensor, context: AnswerContext) -> list[Answer]:
        """Return one answer a picture, from the outputs of a batch."""

    @abstractmethod
    def row_types(self, labels: Labels) -> dict[str, type]:
        """Return the columns of a row of answers: str, float or dict each."""

    def present(self, labels: Labels, metadata: Mapping[str, Any]) -> Presentation:
        """Return what a server says about a model, and how its page shows answers.

        Args:
            metadata: plain data that is stored with the model.
        """
        fields = {name: Field(kind) for name, kind in self.row_types(labels).items()}
        fitted = {key: metadata.get(key, v) for key, v in self.metadata_keys.items()}
        extra = {key: Fact(v) for key, v in (labels.extra() | fitted).items()}
        facts = {"outputs": Fact(list(labels.names), list[str]), **extra}
        return Presentation(fields=fields, facts=facts)

    # Measurement

    @abstractmethod
    def metric(self, labels: Labels) -> Metric:
        """Return an empty metric."""

    @abstractmethod
    def score(self, outputs: np.ndarray, target: Any, labels: Labels) -> np.ndarray:
        """Return how good each decision is; the mean is `score_name`, 1 at best.

        Args:
            target: that of a batch.
        """

    def agreement(
        self, outputs: np.ndarray, others: np.ndarray, labels: Labels
    ) -> np.ndarray:
        """Return which decisions of two models are the same, [pictures, ...].

        By default those whose outputs differ by less than a hundredth.
        """
        same: np.ndarray = np.abs(outputs - others) < 0.01
        return same

    def count_changed(
        self, outputs: np.ndarray, others: np.ndarray, tolerance: float
    ) -> int:
        """Count pictures whose answer changes for a person, beyond a tolerance."""
        return 0

    def read_second_truth(self, file: Path, data: str) -> Any:
        """Read other labels of the pictures of a data set.

        Raises:
            ConfigError: the task has none, or they belong to another data set.
        """
        raise ConfigError(
            f"`real={file}` holds other labels of images, which a model of "
            f"{self.name} does not answer: leave it out."
        )

    def second_result(
        self, truth: Any, table: Path, names: tuple[str, ...]
    ) -> SecondResult:
        """Measure the answers of a table with what `read_second_truth` gave.

        Args:
            names: the data set's categories in their published order.

        Raises:
            ConfigError: the task reads such truth, and does not measure with it.
        """
        raise ConfigError(
            f"The task {self.name} reads other labels of {table} and defines no "
            "`second_result` to measure with them: define one."
        )

    def probe(
        self, protocol: str, features: ProbeInput, settings: ProbeSettings
    ) -> Sequence[ProbeRow]:
        """Learn from frozen features and measure on others.

        Args:
            protocol: `fewshot`, `linear` or `knn`.

        Raises:
            ConfigError: the task has no such protocol.
        """
        raise ConfigError(
            f"`protocol={protocol}` learns classes from features, and the task is "
            f"{self.name}: train with `vitral train DATA --weights W` instead."
        )

    def result_of(self, value: Mapping[str, Any]) -> type[Result] | None:
        """Return the class of a stored result; None for one of another task."""
        kinds = {result.KIND: result for result in self.results}
        return kinds.get(str(value.get("kind", "")))

    # Documents

    def reporter(self) -> "Reporter":
        """Return the writer of the task's parts of report and card."""
        from vitral.tasks.reporter import Reporter

        return Reporter()
