"""Running average of the weights (Polyak averaging, arXiv 2010.11929 section 4.1).

The paper gives only the factor 0.9999. Ours starts from the first weights and is
avg <- d·avg + (1 - d)·w after every update.
"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]


def decay_at(step: int, decay: float, warmup: bool) -> float:
    """Return the factor d of update `step` (0 is the first).

    With `warmup` it is min(decay, (1 + step)/(10 + step)), so that the average leaves
    the first weights behind in a short run.
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


def create_ema(model: nn.Module, decay: float, warmup: bool) -> AveragedModel:
    """Copy `model`, to be averaged by `update_parameters(model)`."""

    def blend(average: Tensors, current: Tensors, count: torch.Tensor | int) -> None:
        factor = decay_at(int(count) - 1, decay, warmup)
        # A lerp leaves equal values bit-equal: frozen parameters do not drift.
        torch._foreach_lerp_(average, current, 1 - factor)

    average = AveragedModel(model, multi_avg_fn=blend)
    # torch copies the weights at count 0 instead of averaging: start at 1.
    average.n_averaged.fill_(1)
    return average.eval()
