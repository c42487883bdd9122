"""Cross-entropy on class targets: softmax, or one sigmoid per class (arXiv 2010.11929).

The paper pre-trains with the sigmoid loss and fine-tunes with the softmax loss
(section 4.1, appendix B.1). Mixing of targets is part of the data pipeline.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vitral.errors import ConfigError
from vitral.tasks.classification.class_weights import validate_class_weights
from vitral.tasks.objective import BatchLike, ObjectiveConfig, upcast_half
from vitral.validation import fraction, one_of


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(ObjectiveConfig):
    """The loss of supervised training."""

    NAME: ClassVar[str] = "supervised"

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """`softmax`: one class an image. `sigmoid`: each class on its own, for several
    classes an image and for the paper's pre-training."""

    smoothing: float = 0.0
    """Label smoothing s in [0, 1); 0 turns it off. Every target t of K classes becomes
    (1 - s)·t + s/K, for both losses: a positive one falls, a negative one rises."""

    class_weights: tuple[float | str, ...] | None = None
    """Factors for unequal class sizes: one a class, NAME=FACTOR for some, 1 for the
    others, or auto: labels / (classes x labels of the class); None turns it off."""

    head: Literal["zero", "probe"] = "zero"
    """Start of a new head: `zero`, or `probe`: a logistic regression on the features of
    the training images, whose penalty is chosen by folds (arXiv 2202.10054). After the
    training it is fitted again on the tuned features, and the mean of both heads is
    taken, unless val prefers another."""

    def __post_init__(self) -> None:
        one_of(("softmax", "sigmoid"), loss=self.loss)
        one_of(("zero", "probe"), head=self.head)
        fraction(smoothing=self.smoothing)
        if self.class_weights is not None:
            validate_class_weights(self.class_weights)

    @property
    def fits_head(self) -> bool:
        return self.head == "probe" and self.loss == "softmax"

    def with_fitted_head(self) -> "SupervisedConfig":
        return replace(self, head="probe")

    def for_cost(self, outputs: int) -> "SupervisedConfig":
        if self.class_weights is None:
            return self
        return replace(self, class_weights=(1.0,) * outputs)


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss of each image, and the divisor of their mean."""

    per_image: Float[Tensor, "batch"]
    divisor: Float[Tensor, ""]


class Supervised(nn.Module):
    """A model with its classification loss."""

    weights: Tensor | None

    def __init__(self, model: nn.Module, config: SupervisedConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        weights = config.class_weights
        if any(isinstance(weight, str) for weight in weights or ()):
            raise ConfigError(
                "`class_weights` by name and auto need the classes: `vt.train` and "
                "`resolve_class_weights` have them."
            )
        self.register_buffer(
            "weights",
            None if weights is None else torch.tensor(weights),
            persistent=False,  # they belong to the config, not to the checkpoint
        )

    def forward(self, batch: BatchLike) -> dict[str, Tensor]:
        """Return the mean loss of a batch, its accuracy, and the divisor of the mean.

        Returns:
            `loss`: scalar with a gradient; `accuracy`: the share of images whose
            highest score is at their label; `weight`: the divisor of the mean, by
            which the losses of the parts of a batch combine into the batch's.

        Raises:
            ConfigError: the model, the targets and `class_weights` do not have the
                same number of classes.
        """
        logits = self.model(batch.image)
        self._check_classes(logits, batch.target.shares)
        logits = upcast_half(logits)  # a sum over 21,843 classes needs the digits
        target = batch.target.shares.to(logits.dtype)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        if self.config.loss == "softmax":
            losses = softmax_loss(logits, target, self.config.smoothing, weights)
        else:
            losses = sigmoid_loss(logits, target, self.config.smoothing, weights)
        correct = logits.detach().argmax(dim=1) == batch.target.label
        return {
            "loss": losses.per_image.sum() / losses.divisor,
            "accuracy": correct.float().mean(),
            "weight": losses.divisor.detach(),
        }

    def _check_classes(self, logits: Tensor, target: Tensor) -> None:
        if logits.shape != target.shape:
            raise ConfigError(
                f"The model answers with shape {tuple(logits.shape)} and the targets "
                f"have shape {tuple(target.shape)} (images, classes): build the model "
                f"with num_classes={target.shape[1]}."
            )
        if self.weights is not None and len(self.weights) != target.shape[1]:
            raise ConfigError(
                f"`class_weights` has {len(self.weights)} values and the data has "
                f"{target.shape[1]} classes: give one value a class."
            )


def smooth(
    target: Float[Tensor, "batch classes"], smoothing: float
) -> Float[Tensor, "batch classes"]:
    """Move every target towards 1/K: (1 - smoothing)·target + smoothing/K."""
    return target * (1 - smoothing) + smoothing / target.shape[1]


def softmax_loss(
    logits: Float[Tensor, "batch classes"],
    target: Float[Tensor, "batch classes"],
    smoothing: float,
    weights: Float[Tensor, "classes"] | None,
) -> Losses:
    """Return each image's soft-target cross-entropy, and the divisor of the mean.

    With class weights w an image adds -sum_c w_c·t_c·log p_c and the divisor is
    sum w_c·t_c over the batch, with t before smoothing: for one-hot targets this is
    torch's `CrossEntropyLoss(weight=w, label_smoothing=s)`. Without them it is the
    number of images.
    """
    log_probability = functional.log_softmax(logits, dim=1)
    terms = -smooth(target, smoothing) * log_probability
    if weights is None:
        return Losses(terms.sum(dim=1), logits.new_tensor(float(len(logits))))
    # Targets that are all zero weigh nothing; the floor keeps 0/0 out of the loss.
    divisor = (target * weights).sum().clamp_min(torch.finfo(logits.dtype).tiny)
    return Losses((terms * weights).sum(dim=1), divisor)


def sigmoid_loss(
    logits: Float[Tensor, "batch classes"],
    target: Float[Tensor, "batch classes"],
    smoothing: float,
    weights: Float[Tensor, "classes"] | None,
) -> Losses:
    """Return each image's binary cross-entropy, summed over classes; divisor: images.

    A class weight multiplies its class's term, positive or negative.
    """
    smoothed = smooth(target, smoothing)
    # torch's binary_cross_entropy_with_logits computes x - logsigmoid(x) for t = 0,
    # which loses the digits at a head bias of -10: 8e-3 over 21,843 float32 classes.
    terms = -smoothed * functional.logsigmoid(logits)
    terms = terms - (1 - smoothed) * functional.logsigmoid(-logits)
    if weights is not None:
        terms = terms * weights
    return Losses(terms.sum(dim=1), logits.new_tensor(float(len(logits))))
