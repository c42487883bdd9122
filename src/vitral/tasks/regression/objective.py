"""Loss of numbers: squared, absolute or Huber's, in deviations of the target.

Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics
1964. Targets are standardised by mean and deviation of train, so the settings of a
recipe fit any unit.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vitral.errors import ConfigError
from vitral.tasks.objective import BatchLike, ObjectiveConfig, upcast_half
from vitral.tasks.regression.labels import NumberLabels
from vitral.tasks.regression.targets import NumberTarget
from vitral.validation import above_zero, one_of


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(ObjectiveConfig):
    """Columns to learn, and the loss."""

    NAME: ClassVar[str] = "regression"
    TASK: ClassVar[str] = "regression"
    MONITOR: ClassVar[str] = "r2"

    target: tuple[str, ...] = ()
    """Columns of numbers of the table; empty for the column `target`."""

    loss: Literal["l2", "l1", "huber"] = "l2"
    """`l2`: the squared error. `l1`: the absolute one, for tables with outliers.
    `huber`: squared up to `huber_delta` and absolute beyond."""

    huber_delta: float = 1.0
    """Error in standard deviations from which on the Huber loss is absolute."""

    def __post_init__(self) -> None:
        one_of(("l2", "l1", "huber"), loss=self.loss)
        above_zero(huber_delta=self.huber_delta)
        if len(set(self.target)) < len(self.target):
            raise ConfigError(
                f"`target={' '.join(self.target)}` names a column twice: keep one."
            )

    def unread_fields(self) -> dict[str, str]:
        return {} if self.loss == "huber" else {"huber_delta": "`loss=huber`"}


class NumberLoss(nn.Module):
    """A model with the loss of its numbers."""

    mean: Tensor
    mean_rest: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, config: RegressionConfig, labels: NumberLabels
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        mean = np.array(labels.mean)
        short = mean.astype(np.float32)
        buffers = {"mean": short, "mean_rest": mean - short, "std": labels.std}
        for name, numbers in buffers.items():
            tensor = torch.tensor(numbers, dtype=torch.float32)
            # They belong to the data, not to the checkpoint.
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, batch: BatchLike) -> dict[str, Tensor]:
        """Return the mean loss of a batch over its values, and their number.

        Returns:
            `loss`: scalar with a gradient; `weight`: the number of values, by which
            the losses of the parts of a batch combine into the batch's.

        Raises:
            ConfigError: the model does not have an output a column.
        """
        outputs, target = self.model(batch.image), batch.target
        if outputs.shape != target.values.shape:
            raise ConfigError(
                f"The model answers with shape {tuple(outputs.shape)} and the targets "
                f"have shape {tuple(target.values.shape)} (images, columns): build the "
                f"model with num_classes={target.values.shape[1]}."
            )
        outputs = upcast_half(outputs)
        losses = self._losses(outputs, self._standardize(target).to(outputs.dtype))
        present = target.present
        # A batch without a value has the loss 0; the floor keeps 0/0 out of it.
        weight = present.sum().to(outputs.dtype)
        weight = weight.clamp_min(torch.finfo(outputs.dtype).tiny)
        return {"loss": (losses * present).sum() / weight, "weight": weight}

    def _standardize(self, target: NumberTarget) -> Float[Tensor, "batch columns"]:
        # The large parts first: their difference has no rounding error.
        centred = (target.values - self.mean) + (target.rest - self.mean_rest)
        return torch.where(target.present, centred / self.std, 0.0)

    def _losses(
        self,
        outputs: Float[Tensor, "batch columns"],
        target: Float[Tensor, "batch columns"],
    ) -> Float[Tensor, "batch columns"]:
        """Return the loss of each value, missing ones included."""
        config = self.config
        if config.loss == "l2":
            return functional.mse_loss(outputs, target, reduction="none")
        if config.loss == "l1":
            return functional.l1_loss(outputs, target, reduction="none")
        delta = config.huber_delta
        return functional.huber_loss(outputs, target, reduction="none", delta=delta)
