"""The task of numbers: one or several columns of a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitral.data import Dataset, SourceFacts
from vitral.errors import DataError
from vitral.tasks.answer import Answer
from vitral.tasks.base import AnswerContext, ObjectiveContext, Task, TrainingUse
from vitral.tasks.labels import Labels
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.presentation import Presentation
from vitral.tasks.probe import ProbeInput, ProbeSettings
from vitral.tasks.regression import labels as outputs_of
from vitral.tasks.regression.answer import (
    HALF_WIDTH,
    decode,
    field_names,
    read_half_widths,
)
from vitral.tasks.regression.metric import NumberMetric
from vitral.tasks.regression.objective import NumberLoss, RegressionConfig
from vitral.tasks.regression.presentation import present_numbers
from vitral.tasks.regression.probes import NumberProbe, run_probe
from vitral.tasks.regression.result import Regression
from vitral.tasks.regression.targets import NumberTarget, NumberTargets, read_numbers
from vitral.tasks.result import Result

if TYPE_CHECKING:
    from vitral.tasks.reporter import Reporter

COLUMN = "target"
"""Column that is learned if none is named."""


class RegressionTask(Task):
    """Say a number of a picture, or several."""

    name: ClassVar[str] = "regression"
    aliases: ClassVar[tuple[str, ...]] = ("regress",)
    priority: ClassVar[int] = 60
    objectives: ClassVar[tuple[type[ObjectiveConfig], ...]] = (RegressionConfig,)
    results: ClassVar[tuple[type[Result], ...]] = (Regression,)
    metadata_keys: ClassVar[Mapping[str, Any]] = {HALF_WIDTH: None}
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "mae", "rmse"})
    score_name: ClassVar[str] = "R2"

    def fits(self, source: SourceFacts) -> str:
        return f"a column {COLUMN}" if COLUMN in source.columns else ""

    def columns(
        self, settings: ObjectiveConfig, source: SourceFacts
    ) -> tuple[str, ...]:
        assert isinstance(settings, RegressionConfig)
        return settings.target or (COLUMN,)

    def read_labels(self, dataset: Dataset, settings: ObjectiveConfig) -> Dataset:
        assert isinstance(settings, RegressionConfig)
        return read_numbers(dataset, settings.target or (COLUMN,))

    def labels_of(self, dataset: Dataset) -> Labels:
        assert isinstance(dataset.targets, NumberTargets)
        return outputs_of.measure_labels(dataset, dataset.targets.columns)

    def validate(
        self, settings: ObjectiveConfig, labels: Labels, use: TrainingUse
    ) -> None:
        Regression.check_monitor(use.monitor)

    def load_labels(self, names: tuple[str, ...], extra: Mapping[str, Any]) -> Labels:
        return outputs_of.load_labels(names, extra)

    def align(self, dataset: Dataset, labels: Labels) -> Dataset:
        assert isinstance(dataset.targets, NumberTargets)
        columns = dataset.targets.columns
        if len(columns) != len(labels.names):
            raise DataError(
                f"The model answers {len(labels.names)} numbers, "
                f"{', '.join(labels.names)}, and the data gives "
                f"{', '.join(columns)}: name a column for each with `target`."
            )
        return dataset

    def check_metadata(self, metadata: Mapping[str, Any], labels: Labels) -> None:
        read_half_widths(metadata, len(labels.names))

    def claims(self, extra: Mapping[str, Any], num_outputs: int) -> bool:
        if extra.get("problem_type"):
            return bool(extra["problem_type"] == "regression")
        return num_outputs == 1 and "multi_label" not in extra

    def describe(self, labels: Labels) -> str:
        return ", ".join(labels.names)

    def problem_type(self, labels: Labels) -> str:
        return "regression"

    def default_objective(self, labels: Labels, smoothing: float) -> RegressionConfig:
        numbers = outputs_of.number_labels(labels)
        # Outputs of another library's head are no columns of a table.
        named = numbers != outputs_of.load_labels(labels.names, {})
        return RegressionConfig(target=labels.names if named else ())

    def build_objective(
        self, settings: ObjectiveConfig, model: nn.Module, context: ObjectiveContext
    ) -> nn.Module:
        # A new head has zero weights, so that each answer starts as the mean.
        assert isinstance(settings, RegressionConfig)
        return NumberLoss(model, settings, outputs_of.number_labels(context.labels))

    def dummy_target(self, images: int, outputs: int) -> NumberTarget:
        values = torch.empty(images, outputs)
        return NumberTarget(values, torch.zeros_like(values), values.bool())

    def decode(self, outputs: Tensor, context: AnswerContext) -> list[Answer]:
        return list(decode(outputs, context))

    def row_types(self, labels: Labels) -> dict[str, type]:
        names = labels.names
        keys = (key for name in names for key in field_names(name, names))
        return dict.fromkeys(keys, float)

    def metric(self, labels: Labels) -> NumberMetric:
        return NumberMetric(labels)

    def score(self, outputs: np.ndarray, target: Any, labels: Labels) -> np.ndarray:
        """Return 1 - the squared error in variances of train, of each number."""
        truth = outputs_of.number_labels(labels).standardize(target.to_numpy())
        squares = np.square(outputs.astype(np.float64) - truth)
        scores: np.ndarray = 1 - squares[~np.isnan(squares)]
        return scores

    def present(self, labels: Labels, metadata: Mapping[str, Any]) -> Presentation:
        return present_numbers(outputs_of.number_labels(labels), metadata)

    def probe(
        self, protocol: str, features: ProbeInput, settings: ProbeSettings
    ) -> list[NumberProbe]:
        return run_probe(protocol, features, settings)

    def reporter(self) -> "Reporter":
        from vitral.tasks.regression.reporter import RegressionReporter

        return RegressionReporter()


TASK = RegressionTask()
