"""Count the bytes that autograd saves for the backward pass, without computing.

The forward pass runs on torch's FakeTensors, which have a size and no storage; each
saved tensor is counted once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode


def activation_bytes(
    objective: nn.Module, make_batch: Callable[[int], Any], images: int, *, bf16: bool
) -> int:
    """Return the bytes saved for the backward pass of `images`, without the weights.

    They include bfloat16 copies of the weights. Passes of one and of two images tell
    the constant part from the part per image.

    Args:
        objective: a module on the meta device; cannot be used afterwards.
        make_batch: returns a batch of the given number of images.
    """
    # CPU kernels on fake tensors: the meta device would decompose the attention, and
    # its maps would be counted.
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective.to_empty(device="cpu").train()
        # Eval mode: random masks need a generator, which a fake tensor cannot use.
        objective.training = False
        bytes_of_one, bytes_of_two = (
            _saved_tensor_bytes(objective, make_batch(count), bf16) for count in (1, 2)
        )
    return bytes_of_one + (images - 1) * (bytes_of_two - bytes_of_one)


def _saved_tensor_bytes(objective: nn.Module, batch: Any, bf16: bool) -> int:
    """Return the bytes of all storages that one forward pass saves for backward."""
    saved: dict[int, Any] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    weights = {tensor.untyped_storage()._cdata for tensor in _tensors(objective)}
    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        objective(batch)
    return sum(s.nbytes() for key, s in saved.items() if key not in weights)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
