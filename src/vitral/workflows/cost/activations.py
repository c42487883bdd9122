"""What a backward pass has to keep, counted without computing anything.

The forward pass runs on tensors that have a size and no storage (torch's FakeTensor),
and every tensor that autograd saves is counted once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode


def activation_bytes(
    objective: nn.Module, make_batch: Callable[[int], Any], images: int, *, bf16: bool
) -> int:
    """Bytes that the backward pass of so many images needs, weights left out.

    Copies of the weights in bfloat16 are among them. They and all else that is there
    once are told from what each image adds by passes of one and of two images.

    Args:
        objective: on the meta device; cannot be used afterwards.
        make_batch: makes a batch of so many images.
    """
    # Sizes without numbers, but with the kernels of a CPU: on the meta device the
    # attention would be taken apart, and its maps counted.
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective.to_empty(device="cpu").train()
        # What it hides then depends on no generator, which has no numbers here.
        objective.training = False
        one, two = (
            _saved_tensor_bytes(objective, make_batch(count), bf16) for count in (1, 2)
        )
    return one + (images - 1) * (two - one)


def _saved_tensor_bytes(objective: nn.Module, batch: Any, bf16: bool) -> int:
    """Bytes of all storages that one forward pass saves for the backward pass."""
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    own = {tensor.untyped_storage()._cdata for tensor in _tensors(objective)}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        objective(batch)
    return sum(s.nbytes() for key, s in kept.items() if key not in own)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
