"""Names that a state dict's pickle may use, and the nodes that stand for them."""

from dataclasses import dataclass
from typing import Any

import torch

STORAGES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}
ORDERED, NAMESPACE = "collections.OrderedDict", "argparse.Namespace"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
IGNORED_CALLS = {
    "torch.Size",
    "torch.device",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
}
"""Calls for numbers and settings of a training script; their values are dropped."""
DTYPES = {str(value) for value in vars(torch).values() if type(value) is torch.dtype}
ALLOWED = (
    {ORDERED, NAMESPACE, TENSOR, PARAMETER} | STORAGES.keys() | IGNORED_CALLS | DTYPES
)


@dataclass(frozen=True, slots=True)
class Global:
    """A Python name, never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Elements `first` to `first + numel` of a storage in the file."""

    key: str
    dtype: torch.dtype
    first: int
    numel: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: shape and strides over a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class PickledOrderedDict(dict[Any, Any]):
    """A dict that was pickled as an OrderedDict, so that a state may follow it."""


class Placeholder:
    """A pickled value that is neither a tensor nor needed."""
