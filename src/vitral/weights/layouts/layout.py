"""What a layout is: one module of this room with a `LAYOUT`, read and written.

detect   is this file mine?                        names and shapes only
read     the model that it describes, and rules    names and shapes only
refuses  why this model cannot be written so
write    the foreign tensors, and files beside them
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from vitral.data import Preprocess
from vitral.models import ModelConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.mapping import TensorMapping


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model to be written: settings, pre-processing, names of the classes."""

    config: ModelConfig
    preprocess: Preprocess
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayoutOutput:
    """What a layout makes of a model."""

    sidecar_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON files that go beside the tensors, by name; empty for a single file."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Text inside the tensors' file."""
    new: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that the layout wants and the model does without."""
    notes: tuple[str, ...] = ()
    """What whoever loads the file must know: where their function differs."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of the world to store a model."""

    name: str
    """The word of `vitral convert --to`: "timm"."""
    title: str
    """Whose layout, for messages: "timm"."""
    container: Literal["safetensors", "npz", "folder"]
    """What is written: a file, or a folder with model.safetensors and JSON."""
    detect: Callable[[LayoutInput], bool]
    read: Callable[[LayoutInput], WeightsSource]
    mappings: Callable[[ModelConfig], list[TensorMapping]]
    """How the tensors of a model correspond; both directions of it."""
    unsupported_reason: Callable[[ModelConfig], str]
    """Why a model cannot be held, as the end of "..., because"; empty if it can."""
    make_output: Callable[[ModelSpec], LayoutOutput] = lambda held: LayoutOutput()
    pack: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    """A last step over all tensors that are written."""
    class_token_row: Literal["with", "without", "either"] = "either"
    """Whether the class token has a row in the position table; a model of the other
    kind is written as an equal function."""


@cache
def available_layouts() -> Mapping[str, Layout]:
    """Return every layout by its name: each module with a `LAYOUT` holds one."""
    package = importlib.import_module(__name__.rpartition(".")[0])
    layouts: list[Layout] = []
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        content = importlib.import_module(module.name)
        if isinstance(getattr(content, "LAYOUT", None), Layout):
            layouts.append(content.LAYOUT)
    return MappingProxyType(
        {layout.name: layout for layout in sorted(layouts, key=lambda it: it.name)}
    )
