"""A weights file as understood, before a model is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitral.data import Preprocess
from vitral.layers import Grid
from vitral.models import ModelConfig
from vitral.weights.files import TensorFile
from vitral.weights.mapping import TensorMapping


@dataclass(frozen=True, kw_only=True)
class LayoutInput:
    """What a layout gets to read: tensors, what lies beside, what the user said."""

    file: TensorFile
    config_json: Mapping[str, Any] = field(default_factory=dict)
    """The content of config.json beside the tensors; empty for none."""
    processor_json: Mapping[str, Any] = field(default_factory=dict)
    """The content of preprocessor_config.json beside them; empty for none."""
    grid: Grid | None = None
    """Rows and columns of the position table, where the caller knows them."""
    num_heads: int | None = None
    """Heads per block, where the caller knows them."""
    notes: tuple[str, ...] = ()
    """What was assumed in opening."""

    @property
    def path(self) -> Path:
        return self.file.path


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """What a file says about itself, in our names."""

    layout: str
    """Whose layout it is."""
    file: TensorFile
    config: ModelConfig
    """The model that the tensors belong to, with the head that the file has."""
    mappings: tuple[TensorMapping, ...]
    """How each tensor of that model is made from the file's."""
    preprocess: Preprocess
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Tensors of the file that the model does without, and why."""
    classes: tuple[str, ...] = ()
    """Names of the head's classes; empty when unknown."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else a native folder carries: temperature, views, source."""
    notes: tuple[str, ...] = ()
    """What had to be assumed."""

    @property
    def path(self) -> Path:
        return self.file.path

    def tensor(self, rule: TensorMapping) -> Tensor:
        """One of our tensors, made now from the file's."""
        return rule.to_native([self.file.read(name) for name in rule.theirs])
