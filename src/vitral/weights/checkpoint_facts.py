"""Contents of a weights file, and the settings of a model that its shapes tell."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import SIZES, ModelConfig
from vitral.weights.files import TensorFile
from vitral.weights.mapping import TensorMapping


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
    """Other metadata as plain data: all keys of a native folder (temperature, views),
    and `problem_type` of transformers' config.json."""
    notes: tuple[str, ...] = ()
    """Assumptions made in reading."""
    run_size: int = 0
    """Pixels that the authors run the model at; 0: those of its positions."""

    @property
    def path(self) -> Path:
        return self.file.path

    def by_name(self) -> dict[str, TensorMapping]:
        """Return the mappings by native name."""
        return {rule.ours: rule for rule in self.mappings}

    def tensor(self, rule: TensorMapping) -> Tensor:
        """Read the file's tensors and return the native tensor made of them."""
        return rule.to_native([self.file.read(name) for name in rule.theirs])


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
    prefix: str = ""
    """Left off the names of the file: dictionaries, with a slash, and modules."""
    notes: list[str] = field(default_factory=list)
    """Assumptions made so far; the methods that infer a setting append theirs."""

    @property
    def path(self) -> Path:
        return self.file.path

    def source(
        self,
        layout: str,
        config: ModelConfig,
        mappings: Iterable[TensorMapping],
        preprocess: Preprocess,
        *,
        drop: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> WeightsSource:
        """Describe the file by what a layout read of it.

        Args:
            drop: regular expressions on names of tensors that the model does not use,
                with the reason of each; the first match counts.
            facts: other fields of the source.
        """
        rules = tuple(mappings)
        used = {name for rule in rules for name in rule.theirs}
        dropped = {}
        for name in self.file.names():
            for pattern, why in (drop or {}).items():
                if re.match(pattern, name) and name not in used:
                    dropped[name] = why
                    break
        return WeightsSource(
            layout=layout,
            file=self.file,
            config=config,
            mappings=rules,
            preprocess=preprocess,
            dropped=dropped,
            notes=tuple(self.notes),
            **facts,
        )

    def first_names(self) -> str:
        """Return up to four names, for a message."""
        return ", ".join(sorted(self.file.names())[:4]) or "none at all"

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Return the shape of a tensor that describes the model."""
        if name not in self.file:
            raise WeightsError(
                f"{self.path}: tensor {name} is missing, which says how wide the model "
                f"is; expected one of {rank} dimensions. The file is incomplete, or of "
                f"another model; its first tensors are {self.first_names()}."
            )
        shape = self.file.shape(name)
        if len(shape) != rank:
            raise WeightsError(
                f"{self.path}: tensor {name} has shape {shape}, but the model's has "
                f"{rank} dimensions. It is the file of another model."
            )
        return shape

    def rows(self, name: str, rank: int = 2) -> int:
        """Return the first side of a tensor; 0 if there is none."""
        return self.shape(name, rank)[0] if name in self.file else 0

    def count_blocks(self, pattern: str) -> int:
        """Return the number of blocks; the group of `pattern` is a block's index."""
        matches = (re.match(pattern, name) for name in self.file.names())
        indices = {int(match[1]) for match in matches if match}
        if missing := sorted(set(range(len(indices))) - indices):
            raise WeightsError(
                f"{self.path}: it has blocks up to number {max(indices)}, but no "
                f"tensor of block {missing[0]}. The file is incomplete."
            )
        return len(indices)

    def infer_positions(
        self,
        name: str,
        rows: int,
        prefixes: Iterable[int],
        declared: Grid | None = None,
    ) -> Grid:
        """Infer the grid of a position table of `rows` rows.

        Args:
            name: the table's name in the file.
            prefixes: possible numbers of rows of other tokens, the likeliest first.
            declared: the grid of a file next to the tensors; the caller's comes first.
        """
        likely, *others = prefixes
        if (
            declared is not None
            and self.grid not in (None, declared)
            and any(rows - it == math.prod(declared) for it in (likely, *others))
        ):
            assert self.grid is not None
            raise ConfigError(
                f"`grid` {self.grid[0]} x {self.grid[1]} is not that of {self.path}, "
                f"whose config.json says {declared[0]} x {declared[1]}. Leave it out."
            )
        given = self.grid or declared
        for prefix in (likely, *others):
            if given is not None and rows - prefix == math.prod(given):
                return given
            side = math.isqrt(max(rows - prefix, 0))
            if given is None and side and side * side == rows - prefix:
                if prefix != likely:
                    prefix_rows = f"{prefix} rows" if prefix else "no row"
                    self.notes.append(
                        f"{side} x {side} patches assumed, and {prefix_rows} of the "
                        "position table for the class and register tokens: give the "
                        "grid if it is another"
                    )
                return Grid(side, side)
        expected = (
            "is not a square" if given is None else f"is not {given[0]} x {given[1]}"
        )
        raise WeightsError(
            f"{self.path}: the position table {name} has {rows} rows for {likely} "
            f"prefix tokens and a grid of patches that {expected}. Give the grid that "
            "the model was trained on, as (rows, columns)."
        )

    def choose_num_heads(self, declared: int | None) -> int | None:
        """Return the heads of a file next to the tensors, else the caller's.

        Raises:
            ConfigError: the caller says another number.
        """
        if declared and self.num_heads and declared != self.num_heads:
            raise ConfigError(
                f"`num_heads={self.num_heads}` is not that of {self.path}, whose "
                f"config.json says {declared}. Leave it out."
            )
        return declared or self.num_heads

    def infer_num_heads(self, width: int, depth: int, mlp_dim: int) -> int:
        """Infer the heads of a model of these sizes, which no shape tells."""
        if self.num_heads is not None:
            return self.num_heads
        sizes = (width, depth, mlp_dim)
        for size in SIZES.values():
            if (size["embed_dim"], size["depth"], size["mlp_dim"]) == sizes:
                return size["num_heads"]
        if width % 64 == 0:
            self.notes.append(
                f"{width // 64} heads of 64 channels assumed: the file cannot say"
            )
            return width // 64
        raise WeightsError(
            f"{self.path}: the number of heads of a model of width {width} cannot be "
            "read from its tensors. Give `num_heads`."
        )

    def vit_fields(
        self,
        stem: str,
        table: str,
        blocks: str,
        mlp_dim: int,
        *,
        prefix: int = 1,
        declared: Any = None,
        heads: int | None = None,
    ) -> dict[str, Any]:
        """Infer the sizes of a plain Vision Transformer, as fields of ViTConfig.

        Args:
            stem: name of the patches' kernel, (dim, channels, rows, columns).
            table: name of the position table.
            blocks: as for `count_blocks`.
            prefix: rows of the table that are not patches.
            declared: image size in a file next to the tensors; None: not there.
            heads: heads in such a file; None: not there.
        """
        width, chans, *patch = self.shape(stem, 4)
        depth = self.count_blocks(blocks)
        given = None if declared is None else patches_of(declared, patch)
        rows = self.shape(table, 3)[1]
        grid = self.infer_positions(table, rows, (prefix,), given)
        heads = self.choose_num_heads(heads)
        return {
            "image_size": (grid.rows * patch[0], grid.columns * patch[1]),
            "patch_size": tuple(patch),
            "in_chans": chans,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads or self.infer_num_heads(width, depth, mlp_dim),
            "mlp_dim": mlp_dim,
        }


def patches_of(image_size: Any, patch: list[int]) -> Grid:
    """Return the grid of an image, whose size is one number or (height, width)."""
    size = image_size
    height, width = (size, size) if isinstance(size, int) else size
    return Grid(height // patch[0], width // patch[1])
