"""Optimizers, and the learning rate and decay of each parameter.

AdamW with decoupled decay and SGD with momentum, as arXiv 2010.11929 appendix B.1 uses
them; Adafactor for models whose state would not fit (arXiv 2106.04560); layer-wise
rates as in arXiv 2106.08254.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from vitral.errors import ConfigError
from vitral.validation import fraction, one_of

ADAMW_EPS = 1e-8
"""AdamW: added to the root of the mean squared gradient (arXiv 1412.6980)."""
ADAFACTOR_EPS = 1e-15
"""Adafactor: least mean square of a row of gradients. torch's own, 1e-7, is more than
most gradients have, and would make of small ones large steps."""
OPTIMIZERS = ("adamw", "sgd", "adafactor")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its constants."""

    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    """`adamw` for pre-training, `sgd` for the paper's fine-tuning; `adafactor` keeps a
    number for each row and column of a matrix in place of two for each weight."""

    lr: float = 1e-3
    """The highest learning rate of the schedule."""

    weight_decay: float = 0.0
    """On kernels only; 0 turns it off. AdamW and Adafactor: w falls by lr·decay·w apart
    from the gradient. SGD: decay·w is added to the gradient."""

    head_decay: float = -1.0
    """The same for the kernels of the head; -1 for `weight_decay`."""

    momentum: float = 0.9
    """SGD only, without Nesterov and dampening; 0 turns it off."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW only: the memory of the mean gradient and of the mean squared gradient."""

    layer_decay: float = 1.0
    """The rate of a layer over that of the layer above it; 1 turns it off."""

    head_lr_scale: float = 1.0
    """A factor on the rate of the head, which is often fresh; 1 turns it off."""

    clip_norm: float = 1.0
    """The largest norm of the gradient over all parameters; 0 turns it off."""

    def __post_init__(self) -> None:
        one_of(OPTIMIZERS, optimizer=self.optimizer)
        for name in ("lr", "head_lr_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"`{name}` must be positive: got {getattr(self, name)}."
                )
        for name in ("weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"`{name}` must not be negative: got {getattr(self, name)}."
                )
        if self.head_decay != -1 and not 0 <= self.head_decay < math.inf:
            raise ConfigError(
                "`head_decay` must not be negative, or -1 for `weight_decay`: got "
                f"{self.head_decay}."
            )
        fraction(momentum=self.momentum)
        for beta in self.betas:
            fraction(betas=beta)
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"`layer_decay` must be above 0 and at most 1: got {self.layer_decay}."
            )

    def unread_fields(self) -> dict[str, str]:
        """Return the fields that these settings do not read, with the one that does."""
        readers = {"momentum": "sgd", "betas": "adamw"}
        return {
            name: f"`optimizer={optimizer}`"
            for name, optimizer in readers.items()
            if optimizer != self.optimizer
        }


def kernel_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that weight decay applies to.

    They are the matrices of linear and convolution layers, found by the type of the
    layer: a position table or a token also has two axes, and is not decayed.
    """
    names = set()
    for prefix, module in model.named_modules():
        owned: tuple[str, ...] = ()
        if isinstance(module, nn.Linear | _ConvNd):
            owned = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            owned = tuple(f"{name}_proj_weight" for name in ("in", "q", "k", "v"))
        names |= {f"{prefix}.{name}" if prefix else name for name in owned}
    return frozenset(names)


def parameter_groups(
    model: nn.Module,
    config: OptimConfig,
    layer_index: Callable[[str], int],
    num_layers: int,
    is_head: Callable[[str], bool] = lambda name: name.startswith("head."),
) -> list[dict[str, Any]]:
    """The optimizer's groups: one for each pair of learning-rate scale and decay.

    Frozen parameters are left out. `lr_scale` of a group is
    layer_decay ** (num_layers - layer), times head_lr_scale for the head.

    Args:
        layer_index: a parameter's name to its layer: 0 is the stem, then the blocks,
            `num_layers` is the head.
        num_layers: the layer of the head.
        is_head: whether a parameter is of the head, whose kernels `head_decay` is
            for; not all that is in the head's layer is.

    Raises:
        ConfigError: nothing is trainable, or a layer is out of range.
    """
    kernels = kernel_names(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_index(name)
        if not 0 <= layer <= num_layers:
            raise ConfigError(
                f"Parameter {name} is in layer {layer}: layers are 0 to {num_layers}."
            )
        scale = config.layer_decay ** (num_layers - layer)
        if layer == num_layers:
            scale *= config.head_lr_scale
        decay = config.weight_decay
        if config.head_decay >= 0 and is_head(name):
            decay = config.head_decay
        decay = decay if name in kernels else 0.0
        group = groups.setdefault(
            (scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay}
        )
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("Every parameter is frozen: leave at least the head free.")
    return list(groups.values())


def create_optimizer(
    groups: list[dict[str, Any]], config: OptimConfig
) -> torch.optim.Optimizer:
    """The optimizer over `groups`, at the rate `config.lr` times each group's scale.

    Adafactor is torch's. Its steps do not grow with the weights, as in arXiv 2106.04560
    (those of a tensor whose root mean square is above 1 do: a head's bias that starts
    at -10). What differs from that paper and cannot be set: there is no first moment,
    where theirs is 0.9 in bfloat16; the memory of the second moment, 1 - t^-0.8, passes
    their cap of 0.999 after 5,623 updates; the rate is at most t^-0.5. An update's
    root mean square is at most 1, which stands in for the missing average.
    """
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            groups,
            config.lr,
            betas=config.betas,
            eps=ADAMW_EPS,
            fused=_can_fuse(groups),
        )
    elif config.optimizer == "adafactor":
        optimizer = torch.optim.Adafactor(
            groups, config.lr, eps=(ADAFACTOR_EPS, 1.0), foreach=False
        )
    else:
        optimizer = torch.optim.SGD(groups, config.lr, momentum=config.momentum)
    set_lr(optimizer, config.lr)
    return optimizer


def _can_fuse(groups: list[dict[str, Any]]) -> bool | None:
    """Return whether torch has a fused kernel; None leaves the choice to torch.

    On the CPU it takes a quarter of the time, and no copies as large as the model.
    """
    tensors = [tensor for group in groups for tensor in group["params"]]
    return (
        all(type(t) is nn.Parameter and t.device.type == "cpu" for t in tensors) or None
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr` times its `lr_scale` (1 where it has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the Euclidean norm of all gradients together; 0 where there is none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, norm: float
) -> None:
    """Scale all gradients by max_norm/norm where `norm` is larger; 0 turns it off.

    torch's own function adds 1e-6 to the norm; the paper's g·min(1, max/|g|) does not.
    """
    if max_norm and norm > max_norm:
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, max_norm / norm)
