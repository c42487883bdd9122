"""Interface of a layout: one module of this package with a `LAYOUT`.

detect              is this file in my layout?          names and shapes only
read                its model, and mappings             names and shapes only
unsupported_reason  why a model cannot be written
make_output         files next to the tensors, and extra tensors
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from vitral.data import Preprocess
from vitral.models import ModelConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.mapping import TensorMapping

Config = TypeVar("Config", bound=ModelConfig)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Generic[Config]):
    """A model to be written: settings, pre-processing, class names, plain data."""

    config: Config
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other metadata, as in `WeightsSource.extra`; a layout stores what it can."""


@dataclass(frozen=True, kw_only=True)
class LayoutOutput:
    """Output of a layout for a model, except its mapped tensors."""

    sidecar_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON files next to the tensors, by name; empty for a single file."""
    new: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that the layout requires and the model does not have."""
    notes: tuple[str, ...] = ()
    """Differences between the model's function and that of the layout's code."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A storage format of another project, with the functions of its module."""

    name: str
    """Value of `vitral convert --to`: "timm"."""
    title: str
    """Name in messages: "timm"."""
    container: Literal["safetensors", "npz", "folder"]
    """Written form: a file, or a folder with model.safetensors and JSON."""
    detect: Callable[[LayoutInput], bool]
    read: Callable[[LayoutInput], WeightsSource]
    mappings: Callable[[Any], list[TensorMapping]]
    """Returns the mappings of a model's tensors, in both directions."""
    unsupported_reason: Callable[[ModelConfig], str]
    """Returns why a model cannot be held, after "..., because"; empty if it can."""
    make_output: Callable[[ModelSpec[Any]], LayoutOutput] = lambda spec: LayoutOutput()
    pack: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    """Last step over all tensors that are written."""
    same_names: str | None = None
    """Models of another function under the same names; None where a file decides its
    function, empty where only settings are assumed."""
    class_token_row: Literal["with", "without", "either"] = "either"
    """Position row of the class token; other models are converted to this form."""


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
