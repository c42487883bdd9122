"""Build models without allocating or initialising weights (meta device)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _SkipInit(TorchFunctionMode):
    """Skip torch's initialisations, which have nothing to fill on the meta device.

    On meta tensors torch runs their Python version, which imports its compiler: longer
    than importing torch (torch 2.14).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def meta_init() -> Iterator[None]:
    """Build models inside without memory and random numbers."""
    with torch.device("meta"), _SkipInit():
        yield
