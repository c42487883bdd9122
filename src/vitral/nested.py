"""Batches of nested tuples: cut them by example, move their tensors.

A NamedTuple is a structure of fields. A tensor has the examples on its first axis; a
list or a plain tuple has one entry an example. Anything else belongs to no example.
"""

from typing import Any

import torch
from torch import Tensor


def slice_rows(value: Any, start: int, stop: int | None) -> Any:
    """Return the examples `start` up to, not including, `stop` (None: the end)."""
    if is_structure(value):
        return type(value)(*(slice_rows(field, start, stop) for field in value))
    if isinstance(value, Tensor | list | tuple):
        return value[start:stop]
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """Return the same structure with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if is_structure(value):
        return type(value)(*(to_device(field, device) for field in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(entry, device) for entry in value)
    return value


def is_structure(value: Any) -> bool:
    """Return whether the value is a NamedTuple."""
    return isinstance(value, tuple) and hasattr(value, "_fields")
