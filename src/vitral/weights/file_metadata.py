"""Facts that no shape tells, kept in the text of a safetensors file.

A table of positions may be any rectangle, heads leave no trace in a fused matrix, nor
does the step of a convolution in its kernel. Every .safetensors that vitral writes
says them, in whichever layout, so that it loads alone.
"""

import re
from typing import NamedTuple

from vitral.layers import Grid
from vitral.models import ModelConfig, TNTConfig, ViTConfig
from vitral.weights.files import TensorFile

GRID, HEADS = "vitral.grid", "vitral.num_heads"
WORDS, INNER_HEADS = "vitral.words", "vitral.inner_num_heads"


class Words(NamedTuple):
    """The words of a patch of a TNT."""

    grid: Grid
    """Their rows and columns."""
    pixels: tuple[int, int]
    """Height and width of one."""


def make_metadata(config: ModelConfig) -> dict[str, str]:
    """The text that goes into a file of this model."""
    if not isinstance(config, ViTConfig):
        return {}
    grid = f"{config.grid.rows} x {config.grid.columns} + {config.num_prefix_tokens}"
    found = {GRID: grid, HEADS: str(config.num_heads)}
    if isinstance(config, TNTConfig):
        rows, columns = config.word_grid
        height, width = config.word_hw
        found[WORDS] = f"{rows} x {columns} of {height} x {width}"
        found[INNER_HEADS] = str(config.inner_num_heads)
    return found


def read_grid(file: TensorFile) -> Grid | None:
    """Rows and columns that the file says; None if it says none."""
    words = file.metadata.get(GRID, "").split()
    if len(words) == 5 and words[0].isdecimal() and words[2].isdecimal():
        return Grid(int(words[0]), int(words[2]))
    return None


def read_words(file: TensorFile) -> Words | None:
    """The words of a patch that the file says; None if it says none."""
    match = re.fullmatch(
        r"(\d+) x (\d+) of (\d+) x (\d+)", file.metadata.get(WORDS, "")
    )
    if match is None:
        return None
    rows, columns, height, width = map(int, match.groups())
    return Words(Grid(rows, columns), (height, width))


def read_num_heads(file: TensorFile) -> int | None:
    """Heads per block that the file says; None if it says none."""
    return _number(file, HEADS)


def read_inner_num_heads(file: TensorFile) -> int | None:
    """Heads of a block inside each patch, the same way."""
    return _number(file, INNER_HEADS)


def _number(file: TensorFile, name: str) -> int | None:
    text = file.metadata.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None
