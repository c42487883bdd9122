"""Teacher of a distillation: a trained model that sees a student's images."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

import vitral.weights
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError


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


def read_teacher(path: str, student: Preprocess, classes: tuple[str, ...]) -> Teacher:
    """Read the model at `path`, for images as the student sees them."""
    if not path:
        raise ConfigError(
            "Distillation needs a teacher: give a run or a file of weights with "
            "`teacher=RUN`."
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
    theirs = source.preprocess
    if (theirs.channels, theirs.value_range) != (student.channels, student.value_range):
        raise ConfigError(
            f"The teacher {path} takes {theirs.channels} channel(s) of values from "
            f"{theirs.value_range or (0, 255)}, and the student {student.channels} "
            f"from {student.value_range or (0, 255)}: both must see the same pixels. "
            "Start the student from the teacher's kind of weights, or train a teacher "
            "on this data."
        )
    model = vitral.weights.build(source, source.config, dtype=torch.float32).model
    return Teacher(model, student, source.preprocess)
