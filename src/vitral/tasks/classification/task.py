"""The task of classes: one an image, several, or soft shares."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitral.data import ClassTarget, Dataset, SourceFacts
from vitral.data.targets import ClassShares
from vitral.errors import ConfigError, DataError
from vitral.evaluation.probes import HeadFit, fit_head
from vitral.tasks.answer import Answer
from vitral.tasks.base import AnswerContext, ObjectiveContext, Task, TrainingUse, Use
from vitral.tasks.classification import answer
from vitral.tasks.classification.class_weights import (
    describe_class_weights,
    resolve_class_weights,
)
from vitral.tasks.classification.distill import DistillConfig, build_distillation
from vitral.tasks.classification.labels import (
    PROBLEM_TYPES,
    ClassLabels,
    match_classes,
    require_two_classes,
)
from vitral.tasks.classification.metric import ClassMetric
from vitral.tasks.classification.multi_label import MultiLabel
from vitral.tasks.classification.presentation import present_classes
from vitral.tasks.classification.probes import ProbeResult, run_probe
from vitral.tasks.classification.real import (
    RealAccuracy,
    read_imagenet_real,
    score_table,
)
from vitral.tasks.classification.result import Classification
from vitral.tasks.classification.supervised import Supervised, SupervisedConfig
from vitral.tasks.features import ExtractedFeatures
from vitral.tasks.labels import Labels
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.presentation import Presentation
from vitral.tasks.probe import ProbeInput, ProbeSettings
from vitral.tasks.result import Result

if TYPE_CHECKING:
    from vitral.tasks.reporter import Reporter  # slow to import: it draws


class ClassificationTask(Task):
    """Name what a picture shows."""

    name: ClassVar[str] = "classification"
    aliases: ClassVar[tuple[str, ...]] = ("classify",)
    priority: ClassVar[int] = 50
    objectives: ClassVar[tuple[type[ObjectiveConfig], ...]] = (
        SupervisedConfig,
        DistillConfig,
    )
    label_keys: ClassVar[tuple[str, ...]] = ("multi_label",)
    metadata_keys: ClassVar[Mapping[str, Any]] = {"temperature": 1.0}
    results: ClassVar[tuple[type[Result], ...]] = (Classification, MultiLabel)

    def fits(self, source: SourceFacts) -> str:
        if source.columns:
            return "a column label" if "label" in source.columns else ""
        if source.kind in ("images", "unknown"):
            return ""
        return "class folders" if source.kind == "folder" else source.kind

    def read_labels(self, dataset: Dataset, settings: ObjectiveConfig) -> Dataset:
        require_two_classes(dataset, str(dataset.root))
        return dataset

    def labels_of(self, dataset: Dataset) -> ClassLabels:
        return ClassLabels.from_dataset(dataset)

    def load_labels(
        self, names: tuple[str, ...], extra: Mapping[str, Any]
    ) -> ClassLabels:
        return ClassLabels.from_extra(names, extra)

    def align(self, dataset: Dataset, labels: Labels) -> Dataset:
        return match_classes(labels, dataset)

    def check_metadata(self, metadata: Mapping[str, Any], labels: Labels) -> None:
        answer.read_temperature(metadata, _class_labels(labels))

    def describe(self, labels: Labels) -> str:
        return f"{len(labels.names)} classes"

    def problem_type(self, labels: Labels) -> str:
        return PROBLEM_TYPES[_class_labels(labels).multi_label]

    def require(self, use: Use, labels: Labels, subject: str) -> None:
        if not _class_labels(labels).multi_label:
            return
        if use == "pseudo-labels":
            raise ConfigError(
                f"{subject} has several labels an image: pseudo-labels are for images "
                "of one class."
            )
        if use == "tune-speed":
            raise ConfigError(
                "tune-speed counts how often the most probable class is right, which "
                "says little where an image has several labels, as in this run. "
                "`vitral eval RUN --merge R` and the report of `vitral export` "
                "measure such a model."
            )
        if use == "features":
            raise DataError(
                f"The images of {subject} have several labels each, and weights are "
                "evaluated with one class an image. Give a data set with one label "
                "each."
            )

    def default_objective(self, labels: Labels, smoothing: float) -> SupervisedConfig:
        if _class_labels(labels).multi_label:
            return SupervisedConfig(loss="sigmoid", smoothing=0.0)
        return SupervisedConfig(loss="softmax", smoothing=smoothing)

    def validate(
        self, settings: ObjectiveConfig, labels: Labels, use: TrainingUse
    ) -> None:
        multi_label = _class_labels(labels).multi_label
        (MultiLabel if multi_label else Classification).check_monitor(use.monitor)
        if isinstance(settings, SupervisedConfig):
            _validate_supervised(settings, labels, use)
        elif multi_label:
            raise ConfigError(
                f"Images of {use.data} have several classes, which `{settings.NAME}` "
                "cannot learn: train with `objective=supervised` and `loss=sigmoid`."
            )
        elif use.caches:
            raise ConfigError(
                f"`cache` keeps outputs of frozen blocks, but `{settings.NAME}` "
                "needs the images themselves at every step: leave it out."
            )

    def resolve_settings(
        self, settings: ObjectiveConfig, dataset: Dataset
    ) -> tuple[ObjectiveConfig, tuple[str, ...]]:
        """Return factors of classes as one number each."""
        if not isinstance(settings, SupervisedConfig) or not settings.class_weights:
            return settings, ()
        if not isinstance(settings.class_weights[0], str):
            return settings, ()
        weights = resolve_class_weights(settings.class_weights, dataset)
        note = describe_class_weights(weights, dataset.classes)
        return replace(settings, class_weights=weights), (note,)

    def build_objective(
        self, settings: ObjectiveConfig, model: nn.Module, context: ObjectiveContext
    ) -> nn.Module:
        if isinstance(settings, DistillConfig):
            return build_distillation(settings, model, context)
        assert isinstance(settings, SupervisedConfig)
        return Supervised(model, settings)

    def student_smoothing(self, settings: ObjectiveConfig) -> float:
        if not isinstance(settings, SupervisedConfig) or settings.loss != "softmax":
            raise ConfigError(
                "A student of self-training learns one class an image with the softmax "
                "loss: leave `objective` and `loss` as they are."
            )
        return settings.smoothing

    def dummy_target(self, images: int, outputs: int) -> ClassTarget:
        shares = torch.empty(images, outputs)
        return ClassTarget(shares, torch.empty(images, dtype=torch.int64))

    def average(self, outputs: Sequence[Tensor], labels: Labels) -> Tensor:
        return answer.average_logits(outputs, _class_labels(labels))

    def decode(self, outputs: Tensor, context: AnswerContext) -> list[Answer]:
        return list(answer.decode(outputs, context))

    def row_types(self, labels: Labels) -> dict[str, type]:
        return {"label": str, "confidence": float, "probabilities": dict}

    def present(self, labels: Labels, metadata: Mapping[str, Any]) -> Presentation:
        return present_classes(_class_labels(labels), metadata)

    def metric(self, labels: Labels) -> ClassMetric:
        return ClassMetric(labels)

    def score(self, outputs: np.ndarray, target: Any, labels: Labels) -> np.ndarray:
        if _class_labels(labels).multi_label:
            return ((outputs > 0) == (target.shares.numpy() > 0)).ravel()
        right: np.ndarray = outputs.argmax(1) == target.label.numpy()
        return right

    def agreement(
        self, outputs: np.ndarray, others: np.ndarray, labels: Labels
    ) -> np.ndarray:
        if _class_labels(labels).multi_label:
            return (outputs > 0) == (others > 0)
        same: np.ndarray = outputs.argmax(1) == others.argmax(1)
        return same

    def count_changed(
        self, outputs: np.ndarray, others: np.ndarray, tolerance: float
    ) -> int:
        margin = np.sort(outputs, axis=1)
        if margin.shape[1] < 2:
            return 0
        clear = margin[:, -1] - margin[:, -2] > 2 * tolerance
        return int((clear & (outputs.argmax(1) != others.argmax(1))).sum())

    def probe(
        self, protocol: str, features: ProbeInput, settings: ProbeSettings
    ) -> list[ProbeResult]:
        return run_probe(protocol, features, settings)

    def fit_head(
        self, features: ExtractedFeatures, outputs: int, *, c: float | None, seed: int
    ) -> HeadFit | None:
        return fit_head(features.x.numpy(), _top(features), outputs, c=c, seed=seed)

    def is_right(self, outputs: np.ndarray, features: ExtractedFeatures) -> np.ndarray:
        return (outputs.argmax(axis=1) == _top(features)).astype(float)

    def read_second_truth(self, file: Path, data: str) -> tuple[frozenset[int], ...]:
        return read_imagenet_real(file, data)

    def second_result(
        self, truth: Any, table: Path, names: tuple[str, ...]
    ) -> RealAccuracy:
        return score_table(table, names, truth)

    def reporter(self) -> "Reporter":
        from vitral.tasks.classification.report import ClassificationReporter

        return ClassificationReporter()


def _class_labels(labels: Labels) -> ClassLabels:
    assert isinstance(labels, ClassLabels)
    return labels


def _validate_supervised(
    settings: SupervisedConfig, labels: Labels, use: TrainingUse
) -> None:
    weights, names = settings.class_weights, labels.names
    if weights is not None and len(weights) != len(names):
        raise ConfigError(
            f"`class_weights` has {len(weights)} values and the data has "
            f"{len(names)} classes: give one value a class."
        )
    if _class_labels(labels).multi_label and settings.loss != "sigmoid":
        raise ConfigError(
            f"Images of {use.data} have several classes, which the softmax loss "
            "cannot learn: set `loss=sigmoid`."
        )


TASK = ClassificationTask()


def _top(features: ExtractedFeatures) -> np.ndarray:
    """Return the class of each example, of shares that of the largest one."""
    targets = features.targets or (None,) * len(features.y)
    return np.array(
        [
            target.top if isinstance(target, ClassShares) else label
            for target, label in zip(targets, features.y.tolist(), strict=True)
        ]
    )
