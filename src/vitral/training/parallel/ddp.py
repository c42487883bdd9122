"""Data parallel training: the whole model on every rank, gradients averaged.

torch's DistributedDataParallel does it, while the backward pass still runs.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from vitral.errors import ConfigError
from vitral.training.distributed import ParallelForward, RankGroup


class _DDPForward(nn.Module):
    """Module that DistributedDataParallel wraps.

    It sums gradients in the order in which they came in the first backward pass, so a
    resumed run would sum in another order at its first step: more than two ranks would
    not end bit-equal. It keeps one order if it looks for unused parameters, and to
    one who looks and finds none it prints a warning. `unused` is the one to find.
    """

    def __init__(self, called: Callable[..., Any]) -> None:
        super().__init__()
        self.called = called
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.called(batch)


def wrap_ddp(objective: nn.Module, ranks: RankGroup, compiled: bool) -> ParallelForward:
    """Start from rank 0's weights, and average gradients from then on.

    Raises:
        ConfigError: the model normalises over the batch.
    """
    require_no_batch_norm(objective)
    called = _DDPForward(torch.compile(objective) if compiled else objective)
    called.to(ranks.device)
    for parameter in objective.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(_make_contiguous)
    wrapped = DistributedDataParallel(
        called, find_unused_parameters=True, gradient_as_bucket_view=True
    )

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        with wrapped.no_sync():
            yield

    return ParallelForward(wrapped, alone)


def _make_contiguous(gradient: Tensor) -> Tensor:
    """The gradient in plain strides, for lack of which torch warns.

    An axis of length 1 has any stride, and torch compares all of them.
    """
    return gradient.clone(memory_format=torch.contiguous_format)


def require_no_batch_norm(objective: nn.Module) -> None:
    """Statistics of a batch would be those of one rank's part of it."""
    for name, module in objective.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise ConfigError(
                f"`{name}` normalises over the batch, which several ranks do not see: "
                "train in one process, or use a model with group or layer norms."
            )
