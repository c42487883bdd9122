"""Infer a model's settings from the shapes in a file.

Assumptions are appended to the layout's notes.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import SIZES
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import TensorFile

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Positions:
    """Grid of a position table, and the number of its rows that are not patches."""

    grid: Grid
    prefix_rows: int


def require_shape(file: TensorFile, name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of a tensor that describes the model.

    Raises:
        WeightsError: the file lacks it, or it has another number of dimensions.
    """
    if name not in file:
        raise WeightsError(
            f"{file.path}: tensor {name} is missing, which says how wide the model is; "
            f"expected one of {rank} dimensions. The file is incomplete, or of another "
            f"model; its first tensors are {first_names(file)}."
        )
    shape = file.shape(name)
    if len(shape) != rank:
        raise WeightsError(
            f"{file.path}: tensor {name} has shape {shape}, but the model's has {rank} "
            "dimensions. It is the file of another model."
        )
    return shape


def rows_or_zero(file: TensorFile, name: str, rank: int = 2) -> int:
    """Return the first side of a tensor; 0 if there is none."""
    return require_shape(file, name, rank)[0] if name in file else 0


def first_names(file: TensorFile) -> str:
    """Return up to four names, for a message."""
    return ", ".join(sorted(file.names())[:4]) or "none at all"


def count_blocks(file: TensorFile, pattern: str) -> int:
    """Return the number of blocks; the group of `pattern` is a block's index.

    Raises:
        WeightsError: an index between the first and the last has no tensor at all.
    """
    matches = (re.match(pattern, name) for name in file.names())
    indices = {int(match[1]) for match in matches if match}
    if missing := sorted(set(range(len(indices))) - indices):
        raise WeightsError(
            f"{file.path}: it has blocks up to number {max(indices)}, but no tensor of "
            f"block {missing[0]}. The file is incomplete."
        )
    return len(indices)


def infer_positions(
    opened: LayoutInput,
    name: str,
    rows: int,
    prefixes: Iterable[int],
    *,
    notes: list[str],
) -> Positions:
    """Infer the grid of a table of `rows` rows.

    Args:
        name: the table's name in the file.
        prefixes: possible numbers of rows of other tokens, the likeliest first.

    Raises:
        WeightsError: no grid is given and none of the rests is a square, or the given
            grid does not fit.
    """
    likely, *others = prefixes
    for prefix in (likely, *others):
        if opened.grid is not None and rows - prefix == math.prod(opened.grid):
            return Positions(opened.grid, prefix)
        side = math.isqrt(max(rows - prefix, 0))
        if opened.grid is None and side and side * side == rows - prefix:
            if prefix != likely:
                prefix_rows = f"{prefix} rows" if prefix else "no row"
                notes.append(
                    f"{side} x {side} patches assumed, and {prefix_rows} of the "
                    "position table for the class and register tokens: give the grid "
                    "if it is another"
                )
            return Positions(Grid(side, side), prefix)
    given = opened.grid
    expected = "is not a square" if given is None else f"is not {given[0]} x {given[1]}"
    raise WeightsError(
        f"{opened.path}: the position table {name} has {rows} rows for {likely} prefix "
        f"tokens and a grid of patches that {expected}. Give the grid that the model "
        "was trained on, as (rows, columns)."
    )


def infer_num_heads(
    opened: LayoutInput, width: int, depth: int, mlp_dim: int, *, notes: list[str]
) -> int:
    """Infer the heads of a model of these sizes, which no shape tells.

    Raises:
        WeightsError: nothing can be assumed.
    """
    if opened.num_heads is not None:
        return opened.num_heads
    for size in SIZES.values():
        if (size["embed_dim"], size["depth"], size["mlp_dim"]) == (
            width,
            depth,
            mlp_dim,
        ):
            return size["num_heads"]
    if width % 64 == 0:
        notes.append(f"{width // 64} heads of 64 channels assumed: the file cannot say")
        return width // 64
    raise WeightsError(
        f"{opened.path}: the number of heads of a model of width {width} cannot be "
        "read from its tensors. Give `num_heads`."
    )


def drop_reasons(
    file: TensorFile, reasons: dict[str, str], is_known: Callable[[str], bool]
) -> dict[str, str]:
    """Return the tensors that a model does not use, with the reason of the first match.

    Args:
        reasons: regular expressions on the name, with the reason of each.
        is_known: returns whether the model uses the tensor after all.
    """
    dropped = {}
    for name in file.names():
        for pattern, why in reasons.items():
            if re.match(pattern, name) and not is_known(name):
                dropped[name] = why
                break
    return dropped


def imagenet_crop(
    image_size: tuple[int, int], fraction: float, interpolation: str = "bicubic"
) -> Preprocess:
    """Return the pre-processing of most ImageNet models: resize, centre crop, ImageNet
    statistics."""
    return Preprocess.from_dict(
        {
            **Preprocess(image_size=image_size, antialias=True).to_dict(),
            "resize": "crop",
            "crop_fraction": fraction,
            "interpolation": interpolation,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        }
    )
