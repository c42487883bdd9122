"""Activation checkpointing: recompute a block in the backward pass, not keep it.

Exact: the random numbers of the forward pass are drawn again, so loss and gradients are
bit-equal (arXiv 1604.06174; torch.utils.checkpoint in its non-reentrant form).
"""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES = -3, 4 << 20
"""glibc's number of the setting, and bytes."""


def return_freed_memory() -> None:
    """Let glibc give every freed block of 4 MB and more back to the system at once.

    By itself it keeps blocks of up to 32 MB, and what is allocated between splits them:
    a training of ViT-S/16 that recomputes its blocks held 1.5 times what it needed, and
    takes 5 to 10 % longer without (docs/dev/experiments/training.md). It holds for the
    whole process, so only a command calls it. Without glibc it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the innermost modules that `module` holds in lists: blocks, no layers."""
    blocks: list[nn.Module] = []
    for child in module.children():
        inner = find_blocks(child)
        listed = isinstance(module, nn.ModuleList | nn.Sequential)
        own = not type(child).__module__.startswith("torch.")
        if not inner and listed and own and any(True for _ in child.children()):
            inner = [child]
        blocks += inner
    return blocks


def forward_method_names(module: nn.Module) -> list[str]:
    names = (name for name in dir(type(module)) if name.startswith("forward"))
    return [name for name in names if callable(getattr(type(module), name))]


def checkpoint_activations(modules: list[nn.Module]) -> None:
    """Make each of `modules` keep only its input in training."""
    for module in modules:
        kind = type(module)
        methods = {
            name: _checkpoint_method(getattr(kind, name))
            for name in forward_method_names(module)
        }
        # A class, not an attribute: a copy of the module must call its own weights.
        module.__class__ = type(kind.__name__, (kind,), methods)


def _checkpoint_method(method: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return method(self, *inputs, **named)
        return checkpoint(method, self, *inputs, use_reentrant=False, **named)

    return forward
