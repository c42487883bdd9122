"""The task of features: learn from pictures without labels."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitral.data import ClassTarget, Dataset
from vitral.errors import ConfigError
from vitral.models import ViT
from vitral.tasks.answer import Answer
from vitral.tasks.base import (
    AnswerContext,
    ObjectiveContext,
    Task,
    TrainingUse,
)
from vitral.tasks.labels import Labels
from vitral.tasks.monitor import Monitor, MonitorContext
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.representation.config import MAEConfig, MaskedPatchConfig
from vitral.tasks.result import Metric
from vitral.training.log import NO_MONITOR

if TYPE_CHECKING:
    from vitral.tasks.reporter import Reporter  # slow to import: it draws

METRICS = ("loss", "knn_accuracy")
"""Metrics of an evaluation without labels."""
NO_ANSWERS = (
    "A model that was trained without labels answers nothing: fine-tune it with "
    "`vitral train DATA --weights RUN --out TUNED`."
)


class RepresentationTask(Task):
    """Learn features; the model gets no head."""

    name: ClassVar[str] = "representation"
    objectives: ClassVar[tuple[type[ObjectiveConfig], ...]] = (
        MAEConfig,
        MaskedPatchConfig,
    )
    has_answers: ClassVar[bool] = False

    def labels_of(self, dataset: Dataset) -> Labels:
        return Labels(names=())

    def claims(self, extra: Mapping[str, Any], num_outputs: int) -> bool:
        return num_outputs == 0

    def describe(self, labels: Labels) -> str:
        return "no labels"

    def validate(
        self, settings: ObjectiveConfig, labels: Labels, use: TrainingUse
    ) -> None:
        if use.caches:
            raise ConfigError(
                f"`cache` keeps outputs of frozen blocks, but `{settings.NAME}` "
                "needs the images themselves at every step: leave it out."
            )
        if use.mixes:
            raise ConfigError(
                f"Mixup and CutMix blend classes, which `{settings.NAME}` does not "
                "use: set `mixup=0` and `cutmix=0`."
            )
        if use.monitor not in (*METRICS, NO_MONITOR):
            raise ConfigError(
                f"`monitor` is {use.monitor!r}, but without labels an evaluation "
                f"gives {' and '.join(METRICS)}: set `monitor=loss`."
            )

    def build_objective(
        self, settings: ObjectiveConfig, model: nn.Module, context: ObjectiveContext
    ) -> nn.Module:
        # Slow to import, and answers need none of them.
        from vitral.tasks.representation.mae import MAE, init_encoder
        from vitral.tasks.representation.masked_patch import MaskedPatch

        if isinstance(settings, MAEConfig):
            if context.fresh and isinstance(model, ViT):
                init_encoder(model)
            return MAE(model, settings)  # type: ignore[arg-type]
        assert isinstance(settings, MaskedPatchConfig)
        mean, std = context.preprocess.mean, context.preprocess.std
        return MaskedPatch(model, settings, mean, std)  # type: ignore[arg-type]

    def dummy_target(self, images: int, outputs: int) -> ClassTarget:
        shares = torch.empty(images, outputs)
        return ClassTarget(shares, torch.empty(images, dtype=torch.int64))

    def make_monitor(self, context: MonitorContext) -> Monitor:
        from vitral.tasks.representation.monitor import FeatureMonitor

        return FeatureMonitor(
            dataset=context.dataset,
            preprocess=context.preprocess,
            batch_size=context.batch_size,
            device=context.device,
            bf16=context.bf16,
            max_bad=context.max_bad,
        )

    def decode(self, outputs: Tensor, context: AnswerContext) -> list[Answer]:
        raise ConfigError(NO_ANSWERS)

    def row_types(self, labels: Labels) -> dict[str, type]:
        raise ConfigError(NO_ANSWERS)

    def metric(self, labels: Labels) -> Metric:
        raise ConfigError(NO_ANSWERS)

    def score(self, outputs: np.ndarray, target: Any, labels: Labels) -> np.ndarray:
        raise ConfigError(NO_ANSWERS)

    def reporter(self) -> "Reporter":
        from vitral.tasks.representation.reporter import RepresentationReporter

        return RepresentationReporter()


TASK = RepresentationTask()
