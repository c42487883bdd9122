"""Two facts that no shape tells, kept in the text of a safetensors file.

A table of positions may be any rectangle, and heads leave no trace in a fused matrix.
Every .safetensors that vitral writes says both, in whichever layout, so that it loads
alone.
"""

from vitral.layers import Grid
from vitral.models import ModelConfig, ViTConfig
from vitral.weights.files.base import TensorFile

GRID, HEADS = "vitral.grid", "vitral.num_heads"


def kept(config: ModelConfig) -> dict[str, str]:
    """The text that goes into a file of this model."""
    if not isinstance(config, ViTConfig):
        return {}
    grid = f"{config.grid.rows} x {config.grid.columns} + {config.num_prefix_tokens}"
    return {GRID: grid, HEADS: str(config.num_heads)}


def grid_in(file: TensorFile) -> Grid | None:
    """Rows and columns that the file says; None if it says none."""
    words = file.metadata.get(GRID, "").split()
    if len(words) == 5 and words[0].isdecimal() and words[2].isdecimal():
        return Grid(int(words[0]), int(words[2]))
    return None


def heads_in(file: TensorFile) -> int | None:
    """Heads per block that the file says; None if it says none."""
    text = file.metadata.get(HEADS, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None
