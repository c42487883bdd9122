"""Build the objective of a run, as its task does."""

import torch
from torch import nn

from vitral.data import Preprocess
from vitral.models import VisionModel
from vitral.tasks import (
    Labels,
    ObjectiveConfig,
    ObjectiveContext,
    Task,
    TrainingUse,
    get_task,
)
from vitral.workflows.config import TrainConfig
from vitral.workflows.train.frozen_cache import TrainableHead


def build_objective(
    settings: ObjectiveConfig,
    model: VisionModel,
    preprocess: Preprocess,
    names: tuple[str, ...],
    *,
    labels: Labels,
    seed: int,
    fresh: bool,
    cached: bool = False,
) -> nn.Module:
    """Build the module that `fit` trains: the loss around the model.

    Args:
        names: the data set's categories.
        fresh: the model has no weights from a file.
        cached: train the part of the model that learns from cached outputs.
    """
    torch.manual_seed(seed)
    student = TrainableHead(model) if cached else model
    context = ObjectiveContext(
        preprocess=preprocess, names=names, labels=labels, fresh=fresh
    )
    return get_task(settings.TASK).build_objective(settings, student, context)


def validate_objective(config: TrainConfig, task: Task, labels: Labels) -> None:
    """Refuse before the first step what the objective would refuse at it."""
    use = TrainingUse(
        data=config.data,
        monitor=config.loop.monitor,
        mixes=bool(config.mix.mixup or config.mix.cutmix),
        caches=config.cache,
    )
    task.validate(config.objective, labels, use)
