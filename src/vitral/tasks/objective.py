"""Base class of the objectives' settings.

A run stores the name in its config.json and looks the settings class up among the
subclasses of `ObjectiveConfig`; nothing is imported by that name.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


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
    LABELS: ClassVar[bool] = True
    """True if the images need classes."""


def upcast_half(x: Tensor) -> Tensor:
    """Convert half precision to float32, which keeps the digits of sums and squares."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
