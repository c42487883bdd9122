"""Contents of a weights file, before a model is built from it."""

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
    """Input of a layout: tensors, JSON files next to them, the caller's settings."""

    file: TensorFile
    config_json: Mapping[str, Any] = field(default_factory=dict)
    """Content of config.json next to the tensors; empty: no file."""
    processor_json: Mapping[str, Any] = field(default_factory=dict)
    """Content of preprocessor_config.json next to them; empty: no file."""
    grid: Grid | None = None
    """Rows and columns of the position table; None: not given."""
    num_heads: int | None = None
    """Heads per block; None: not given."""
    notes: tuple[str, ...] = ()
    """Assumptions made in opening."""

    @property
    def path(self) -> Path:
        return self.file.path


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Description of a weights file in native names."""

    layout: str
    """Title of its layout."""
    file: TensorFile
    config: ModelConfig
    """Settings of the model that the tensors belong to, with the file's head."""
    mappings: tuple[TensorMapping, ...]
    """Mapping of each tensor of that model to the file's tensors."""
    preprocess: Preprocess
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Tensors of the file that the model does not use, with the reason."""
    classes: tuple[str, ...] = ()
    """Names of the head's classes; empty: unknown."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Other metadata of a native folder: temperature, views, source."""
    notes: tuple[str, ...] = ()
    """Assumptions made in reading."""

    @property
    def path(self) -> Path:
        return self.file.path

    def tensor(self, rule: TensorMapping) -> Tensor:
        """Read the file's tensors and return the native tensor made of them."""
        return rule.to_native([self.file.read(name) for name in rule.theirs])
