"""Base class of the objectives' settings.

A run stores the name in its config.json and looks the settings class up among the
subclasses of `ObjectiveConfig`; nothing is imported by that name.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.layers import num_kept
from vitral.layers.patch import patch_grid
from vitral.models import ModelConfig, ViTConfig
from vitral.models.vit import encoder_macs


@runtime_checkable
class BatchLike(Protocol):
    """Batch as objectives see it: `vitral.data.Batch` is one.

    The data set's `Targets` decide what `target` is, such as a `ClassTarget`.
    """

    @property
    def image(self) -> Float[Tensor, "batch ..."]: ...
    @property
    def target(self) -> Any: ...
    @property
    def id(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Settings of an objective; each objective derives its own."""

    NAME: ClassVar[str] = ""
    """Name of the objective on the command line."""
    DEFAULT: ClassVar[str] = "supervised"
    """Name of the objective for settings without a name."""
    TASK: ClassVar[str] = "classification"
    """Name of the task that the objective learns."""
    MONITOR: ClassVar[str] = "accuracy"
    """Metric that chooses the best step, unless the run names another one."""
    LABELS: ClassVar[bool] = True
    """True if the examples need targets."""
    NEEDS_TEACHER: ClassVar[bool] = False
    """True if a second model, which is not trained, sees each image too."""

    @property
    def fits_head(self) -> bool:
        """True where the head starts as a fit to the features of pre-trained weights.

        The task's `fit_head` fits it.
        """
        return False

    def with_fitted_head(self) -> "ObjectiveConfig":
        """Return the settings whose head starts as a fit, where there is such a fit."""
        return self

    def unread_fields(self) -> dict[str, str]:
        """Return the fields that these settings do not read, with the one that does."""
        return {}

    def for_cost(self, outputs: int) -> "ObjectiveConfig":
        """Return settings of the same cost that need no data."""
        return self

    def count_macs(self, model: ModelConfig, size: tuple[int, int]) -> int:
        """Count multiply-accumulates of the forward pass of one training image.

        Args:
            size: height and width in pixels.
        """
        if not isinstance(model, ViTConfig):
            return model.macs(size)
        patches = math.prod(patch_grid(size, model.patch_hw))
        remaining = num_kept(patches, model.patch_drop_rate)
        return model.macs(size) - saved_macs(model, patches, remaining)

    def resume_from(self, stored: "ObjectiveConfig") -> "ObjectiveConfig":
        """Return the settings of a run that resumes, where a default has changed.

        Args:
            stored: those that the run began with, maybe by an older version.
        """
        return self

    def shrink(self) -> "ObjectiveConfig":
        """Return the settings for a model of a few thousand parameters."""
        return self

    def teacher_path(self) -> str:
        """Return the path of the second model; empty if there is none, or not yet."""
        return ""


def saved_macs(model: ViTConfig, patches: int, remaining: int) -> int:
    """Count what an encoder saves that sees `remaining` of all patches."""
    prefix = model.num_prefix_tokens
    return encoder_macs(model, patches + prefix) - encoder_macs(
        model, remaining + prefix
    )


def upcast_half(x: Tensor) -> Tensor:
    """Convert half precision to float32, which keeps the digits of sums and squares."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
