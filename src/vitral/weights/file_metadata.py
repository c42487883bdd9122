"""Metadata of vitral's .safetensors files: facts that no shape tells.

A position table may be any rectangle. Heads leave no trace in a fused matrix, nor the
stride of a convolution in its kernel. Every layout writes them.
"""

import re
from dataclasses import dataclass

from vitral.layers import Grid
from vitral.models import ModelConfig, TNTConfig, ViTConfig
from vitral.weights.files import TensorFile

GRID, HEADS = "vitral.grid", "vitral.num_heads"
NUM_FRAMES = "vitral.num_frames"
WORDS, INNER_HEADS = "vitral.words", "vitral.inner_num_heads"


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a patch of a TNT."""

    grid: Grid
    """Rows and columns of words in a patch."""
    pixels: tuple[int, int]
    """Height and width of one word in pixels."""


def make_metadata(config: ModelConfig) -> dict[str, str]:
    """Return the metadata for a file of this model."""
    if not isinstance(config, ViTConfig):
        return {}
    grid = f"{config.grid.rows} x {config.grid.columns} + {config.num_prefix_tokens}"
    metadata = {GRID: grid, HEADS: str(config.num_heads)}
    if isinstance(config, TNTConfig):
        rows, columns = config.word_grid
        height, width = config.word_hw
        metadata[WORDS] = f"{rows} x {columns} of {height} x {width}"
        metadata[INNER_HEADS] = str(config.inner_num_heads)
    if config.num_frames:
        metadata[NUM_FRAMES] = str(config.num_frames)
    return metadata


def read_grid(file: TensorFile) -> Grid | None:
    """Return the grid in the file's metadata, or None."""
    tokens = file.metadata.get(GRID, "").split()
    if len(tokens) == 5 and tokens[0].isdecimal() and tokens[2].isdecimal():
        return Grid(int(tokens[0]), int(tokens[2]))
    return None


def read_words(file: TensorFile) -> Words | None:
    """Return the words of a patch in the file's metadata, or None."""
    match = re.fullmatch(
        r"(\d+) x (\d+) of (\d+) x (\d+)", file.metadata.get(WORDS, "")
    )
    if match is None:
        return None
    rows, columns, height, width = map(int, match.groups())
    return Words(Grid(rows, columns), (height, width))


def read_count(file: TensorFile, name: str) -> int | None:
    """Return a positive number (HEADS, INNER_HEADS) in the metadata, or None."""
    text = file.metadata.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None
