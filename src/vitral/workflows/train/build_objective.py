"""Build the objective of a run, and the teacher of a distillation."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

import vitral.weights
from vitral.data import Dataset, Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.models import VisionModel, ViT
from vitral.tasks.classification import (
    Distill,
    DistillConfig,
    Supervised,
    SupervisedConfig,
)
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.representation import MAE, MAEConfig, MaskedPatch, MaskedPatchConfig
from vitral.tasks.representation import mae as masked_autoencoder
from vitral.workflows.config import TrainConfig
from vitral.workflows.train.frozen_cache import TrainableHead

UNLABELED_METRICS = ("loss", "knn_accuracy")
"""What an evaluation of an objective without labels gives."""


class Teacher(nn.Module):
    """A trained model that sees the images of a student in its own way."""

    def __init__(
        self, model: nn.Module, student: Preprocess, teacher: Preprocess
    ) -> None:
        super().__init__()
        self.model = model
        self.student = student
        self.teacher = teacher

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.model(self.translate(image))
        return logits

    def translate(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 rows columns"]:
        """Change normalisation and size; crops and colours stay the student's."""
        student, teacher = self.student, self.teacher
        ours, theirs = (
            [image.new_tensor(values)[:, None, None] for values in (p.mean, p.std)]
            for p in (student, teacher)
        )
        if (student.mean, student.std) != (teacher.mean, teacher.std):
            image = (image * ours[1] + ours[0] - theirs[0]) / theirs[1]
        if tuple(image.shape[-2:]) == tuple(teacher.image_size):
            return image
        return functional.interpolate(
            image, teacher.image_size, mode="bilinear", antialias=True
        )


def build_objective(
    settings: ObjectiveConfig,
    model: VisionModel,
    preprocess: Preprocess,
    classes: tuple[str, ...],
    *,
    seed: int,
    fresh: bool,
    cached: bool = False,
) -> nn.Module:
    """Build the module that `fit` trains: the loss around the model.

    Args:
        fresh: the model has no weights from a file.
        cached: train the part of the model that learns from cached outputs.
    """
    torch.manual_seed(seed)
    teacher = None
    if isinstance(settings, DistillConfig):
        teacher = read_teacher(settings.teacher, preprocess, classes)
    student = TrainableHead(model) if cached else model
    return wrap_model(settings, student, teacher, preprocess=preprocess, fresh=fresh)


def wrap_model(
    settings: ObjectiveConfig,
    model: nn.Module,
    teacher: nn.Module | None,
    *,
    preprocess: Preprocess,
    fresh: bool,
) -> nn.Module:
    """Return the objective of `settings` around a model, and around its teacher."""
    if isinstance(settings, SupervisedConfig):
        return Supervised(model, settings)
    if isinstance(settings, DistillConfig):
        assert teacher is not None
        return Distill(model, teacher, settings)
    if isinstance(settings, MAEConfig):
        if fresh and isinstance(model, ViT):
            masked_autoencoder.init_encoder(model)
        return MAE(model, settings)  # type: ignore[arg-type]
    assert isinstance(settings, MaskedPatchConfig)
    return MaskedPatch(model, settings, preprocess.mean, preprocess.std)  # type: ignore[arg-type]


def read_teacher(path: str, student: Preprocess, classes: tuple[str, ...]) -> Teacher:
    """Read the model at `path`, for images as the student sees them."""
    if not path:
        raise ConfigError(
            "Distillation needs a teacher: give a run or a file of weights with "
            "`--teacher RUN`."
        )
    if not Path(path).exists():
        raise WeightsError(
            f"The teacher {path} does not exist: give a run, a model folder or a file "
            "of weights."
        )
    source = vitral.weights.read(path)
    if source.classes and tuple(source.classes) != tuple(classes):
        raise ConfigError(
            f"The teacher {path} knows the classes {', '.join(source.classes[:5])}, "
            f"and the data has {', '.join(classes[:5])}: student and teacher need the "
            "same classes in the same order."
        )
    if source.config.num_classes != len(classes):
        raise ConfigError(
            f"The teacher {path} has {source.config.num_classes} outputs and the data "
            f"{len(classes)} classes: fine-tune the teacher on this data first."
        )
    model = vitral.weights.build(source, source.config).model
    return Teacher(model, student, source.preprocess)


def validate_objective(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse before the first step what the objective would refuse at it."""
    settings = config.objective
    if isinstance(settings, SupervisedConfig):
        _validate_supervised(config, settings, dataset)
    elif dataset.multi_label and settings.LABELS:
        raise ConfigError(
            f"Images of {config.data} have several classes, which `{settings.NAME}` "
            "cannot learn: train with `--objective supervised --loss sigmoid`."
        )
    if config.cache and not isinstance(settings, SupervisedConfig):
        raise ConfigError(
            f"`--cache` keeps outputs of frozen blocks, but `{settings.NAME}` needs "
            "the images themselves at every step: leave it out."
        )
    if settings.LABELS:
        return
    if config.mix.mixup or config.mix.cutmix:
        raise ConfigError(
            f"Mixup and CutMix blend classes, which `{settings.NAME}` does not use: "
            "set `--mixup 0 --cutmix 0`."
        )
    if config.loop.monitor not in UNLABELED_METRICS:
        raise ConfigError(
            f"`monitor` is {config.loop.monitor!r}, but without labels an evaluation "
            f"gives {' and '.join(UNLABELED_METRICS)}: set `--monitor loss`."
        )


def _validate_supervised(
    config: TrainConfig, settings: SupervisedConfig, dataset: Dataset
) -> None:
    weights, classes = settings.class_weights, dataset.classes
    if weights is not None and len(weights) != len(classes):
        raise ConfigError(
            f"`class_weights` has {len(weights)} values and the data has "
            f"{len(classes)} classes: give one value a class."
        )
    if dataset.multi_label and settings.loss != "sigmoid":
        raise ConfigError(
            f"Images of {config.data} have several classes, which the softmax loss "
            "cannot learn: set `--loss sigmoid`."
        )
