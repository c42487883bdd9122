"""Models of shapes only, to know their tensors or to fill them from a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _SkipInit(TorchFunctionMode):
    """Leaves out torch's initialisations, which have nothing to fill.

    For tensors without numbers torch runs them as written in Python, and imports its
    compiler for that, which takes longer than importing torch (torch 2.14).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def meta_init() -> Iterator[None]:
    """Models that are made here take no memory and draw no numbers."""
    with torch.device("meta"), _SkipInit():
        yield
