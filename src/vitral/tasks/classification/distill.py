"""Distillation (arXiv 2012.12877, section 4): learn from labels and from a teacher.

With a distillation token the class token's head learns from the labels and the other
head from the teacher; a model without one learns both with its only head. The teacher
sees the student's images, in eval mode and without gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vitral.errors import ConfigError
from vitral.models import DeiT
from vitral.tasks.base import ObjectiveContext
from vitral.tasks.classification.supervised import softmax_loss
from vitral.tasks.classification.teacher import read_teacher
from vitral.tasks.objective import BatchLike, ObjectiveConfig, upcast_half
from vitral.validation import between, fraction, one_of


@dataclass(frozen=True, kw_only=True)
class DistillConfig(ObjectiveConfig):
    """Teacher, and weight of its loss."""

    NAME: ClassVar[str] = "distill"
    NEEDS_TEACHER: ClassVar[bool] = True

    teacher: str = ""
    """Teacher: a run, a model folder or a file of weights, with a head for the
    same classes; empty where the objective is built with a module."""

    kind: Literal["hard", "soft"] = "hard"
    """`hard`: the teacher's most likely class, as the published DeiT models. `soft`:
    its probabilities; the paper sets `share=0.1` and `temperature=3` for it."""

    share: float = 0.5
    """Weight of the teacher's loss, 0 to 1; the labels' has the rest."""

    temperature: float = 1.0
    """Divisor of both logits in `soft`; above 1 shows more of what the
    teacher thinks of the other classes."""

    smoothing: float = 0.0
    """Label smoothing of the labels' loss, in [0, 1); never of the teacher's."""

    def unread_fields(self) -> dict[str, str]:
        unread = {}
        if self.kind == "hard":
            unread["temperature"] = "`kind=soft`"
        if self.share == 1:
            unread["smoothing"] = "a `share` below 1"
        return unread

    def teacher_path(self) -> str:
        """Return the path of the teacher."""
        return self.teacher

    def __post_init__(self) -> None:
        one_of(("hard", "soft"), kind=self.kind)
        between(0, 1, share=self.share)
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                "`temperature` must be a finite number above 0: got "
                f"{self.temperature}."
            )
        fraction(smoothing=self.smoothing)


class Distill(nn.Module):
    """A student with its teacher's loss.

    Args:
        teacher: `teacher(images)` gives logits of the same classes. It moves with the
            student, but is no part of it: neither trained nor saved.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module, config: DistillConfig
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        # A tuple hides it from torch: it is in no state dict and no optimizer.
        self._teacher = (teacher.eval(),)

    @property
    def teacher(self) -> nn.Module:
        """Teacher of the student."""
        return self._teacher[0]

    def forward(self, batch: BatchLike) -> dict[str, Tensor]:
        """Return the loss of a batch; all are means over its images.

        Returns:
            `loss`; `label_loss` and `teacher_loss`, which it is made of; `accuracy` of
            the student's prediction, the mean of its heads; `agreement`: the share of
            images where that is the teacher's most likely class.

        Raises:
            ConfigError: student, teacher and targets differ in classes.
        """
        by_label, by_teacher = (
            upcast_half(x) for x in self._student_logits(batch.image)
        )
        taught = self._teacher_logits(batch.image).to(by_label.dtype)
        _check_classes(by_label, taught, batch.target.shares)
        target = batch.target.shares.to(by_label.dtype)
        losses = softmax_loss(by_label, target, self.config.smoothing, None)
        label_loss = losses.per_image.mean()
        if self.config.kind == "hard":
            teacher_loss = functional.cross_entropy(by_teacher, taught.argmax(dim=1))
        else:
            teacher_loss = soft_loss(by_teacher, taught, self.config.temperature)
        share = self.config.share
        predicted = (by_label + by_teacher).detach().argmax(dim=1)
        return {
            "loss": (1 - share) * label_loss + share * teacher_loss,
            "label_loss": label_loss.detach(),
            "teacher_loss": teacher_loss.detach(),
            "accuracy": (predicted == batch.target.label).float().mean(),
            "agreement": (predicted == taught.argmax(dim=1)).float().mean(),
        }

    def _student_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits for the labels, and the logits for the teacher."""
        if isinstance(self.model, DeiT):
            return self.model.forward_heads(self.model.forward_features(image))
        logits = self.model(image)
        return logits, logits

    def _teacher_logits(self, image: Tensor) -> Tensor:
        """Return the teacher's logits; other users may have put it in train mode."""
        self.teacher.eval()
        with torch.no_grad():
            answer: Tensor = self.teacher(image)
        return answer

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move to another device or precision, with the teacher (called by `to`)."""
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


def soft_loss(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the mean of τ² · KL(softmax(teacher / τ) ‖ softmax(student / τ)).

    The teacher is the reference of the divergence, as in the released code; that code
    also divides by the number of classes, which the paper's formula does not.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def _check_classes(student: Tensor, teacher: Tensor, target: Tensor) -> None:
    shapes = [list(logits.shape) for logits in (student, teacher, target)]
    if not shapes[0] == shapes[1] == shapes[2]:
        raise ConfigError(
            "Student, teacher and targets must have the same images and classes: got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}. Build the student with "
            f"num_classes={shapes[2][-1]}, and take a teacher of these classes."
        )


def build_distillation(
    settings: DistillConfig, model: nn.Module, context: ObjectiveContext
) -> Distill:
    """Return the objective with the teacher that `settings` names.

    Raises:
        ConfigError: the teacher is missing or knows other classes.
        WeightsError: the teacher cannot be read.
    """
    teacher = context.teacher or read_teacher(
        settings.teacher, context.preprocess, context.names
    )
    return Distill(model, teacher, settings)
