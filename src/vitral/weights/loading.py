"""From a weights file to a model, and a line for every tensor.

Nothing is skipped in silence: a tensor is copied, resized, new or ignored, and the
ledger says why. Anything that would change the function without being asked for is an
error that shows both sides of the difference.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid, resize
from vitral.models import ViT, ViTConfig
from vitral.weights import native, timm
from vitral.weights.ledger import Ledger, Line
from vitral.weights.source import Source, read_safetensors

HEAD = ("head.", "pre_logits.")
HARMLESS = (*HEAD, "head_dist.", "mask_token", "decoder")
"""Parts of pre-training that a classifier does without: the only unknown tensors that
may be left out."""


class Loaded(NamedTuple):
    """A model with the pre-processing that belongs to it, and how it was loaded."""

    model: ViT
    preprocess: Preprocess
    ledger: Ledger


def read(
    path: str | Path, *, grid: Grid | None = None, num_heads: int | None = None
) -> Source:
    """Read a model folder, a run folder or a .safetensors file; see `load`."""
    path = Path(path).expanduser()
    for folder in (path, path / "model"):
        if folder.is_dir() and native.detect(folder):
            return native.read(folder)
    if path.name == native.TENSORS and native.detect(path.parent):
        return native.read(path.parent)
    file = path / native.TENSORS if path.is_dir() else path
    tensors = read_safetensors(file)
    if timm.detect(tensors):
        return timm.read(file, tensors, grid=grid, num_heads=num_heads)
    first = ", ".join(sorted(tensors)[:4]) or "none at all"
    raise WeightsError(
        f"{file} is not a Vision Transformer in a layout that vitral reads: it has no "
        f"patch_embed.proj.weight and blocks.0.attn.qkv.weight. Its first tensors are "
        f"{first}."
    )


def build(source: Source, config: ViTConfig, classes: tuple[str, ...] = ()) -> Loaded:
    """The model `config` with the tensors of `source`.

    The head is new, with zero weights, if its width differs or `classes` are others
    than the file's; positions are resized to the grid of `config`.

    Raises:
        WeightsError: a tensor that the model needs is missing or of another shape.
    """
    if classes and classes != source.classes:
        source = replace(source, tensors=_without_head(source.tensors))
    wanted, own = _shapes(config), _shapes(source.config)
    unknown = [
        name
        for name in source.tensors
        if name not in own and not name.startswith(HARMLESS)
    ]
    missing = [
        name
        for name in wanted
        if name in own and name not in source.tensors and not name.startswith(HEAD)
    ]
    if unknown or missing:
        raise WeightsError(
            f"{source.path} does not fit the model that its shapes describe: "
            f"it lacks {_some(missing)} and has {_some(unknown)} that the model has no "
            "place for. It is the file of another model."
        )
    lines: list[Line] = []
    state: dict[str, Tensor] = {}
    for name, shape in wanted.items():
        line, tensor = _place(name, shape, source, config)
        lines.append(line)
        if tensor is not None:
            state[name] = tensor
    for name in source.tensors.keys() - wanted.keys():
        lines.append(Line(name, "ignored", _why_ignored(name, own)))
    model = ViT(config)
    model.load_state_dict(state, strict=False)
    ledger = Ledger(str(source.path), tuple(lines), source.notes)
    preprocess = replace(source.preprocess, image_size=config.image_hw)
    return Loaded(model.eval(), preprocess, ledger)


def load(
    path: str | Path,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Loaded:
    """A model from a model folder, a run folder or a .safetensors file.

    Args:
        num_classes: width of the head; None for the file's own. Another width than
            the file's gives a new head with zero weights.
        image_size: pixels, (height, width) or one number; None for the file's own.
        grid: rows and columns of the position table, where the file cannot tell.
        num_heads: heads per block, where the file cannot tell.

    Raises:
        WeightsError: the file is missing, corrupt, refused, or of another model.
    """
    known = None if grid is None else Grid(*grid)
    source = read(path, grid=known, num_heads=num_heads)
    changes: dict[str, Any] = {}
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if image_size is not None:
        changes["image_size"] = image_size
    return build(source, replace(source.config, **changes))


def _place(
    name: str, shape: torch.Size, source: Source, config: ViTConfig
) -> tuple[Line, Tensor | None]:
    tensor = source.tensors.get(name)
    if name.startswith(HEAD) and (tensor is None or tensor.shape != shape):
        return Line(name, "new", f"zero, for {config.num_classes} classes"), None
    if tensor is None:
        return Line(name, "new", "the file has no such part"), None
    if name == "pos_embed" and _is_another_grid(tensor, source.config, config):
        return _resized(name, tensor, source.config, config)
    if tensor.shape != shape:
        raise WeightsError(
            f"{source.path}: tensor {name} has shape {tuple(tensor.shape)}, but the "
            f"model needs {tuple(shape)}. It is the file of another model, or the "
            "setting that decides this shape was changed."
        )
    return Line(name, "copied"), tensor


def _is_another_grid(table: Tensor, old: ViTConfig, new: ViTConfig) -> bool:
    """Whether the grid is all that differs, so that a resize gives the right shape."""
    prefixes = [0 if c.no_embed_class else c.num_prefix_tokens for c in (old, new)]
    rows = prefixes[0] + math.prod(old.grid)
    return (
        prefixes[0] == prefixes[1]
        and old.grid != new.grid
        and table.shape[1:] == (rows, new.embed_dim)
    )


def _resized(
    name: str, table: Tensor, old: ViTConfig, new: ViTConfig
) -> tuple[Line, Tensor]:
    prefix = 0 if old.no_embed_class else old.num_prefix_tokens
    method = new.position_resize
    rows = resize(table[:, prefix:], old.grid, new.grid, method)
    detail = f"{old.grid.rows} x {old.grid.columns} -> {new.grid.rows} x "
    detail += f"{new.grid.columns} patches, {method}"
    return Line(name, "resized", detail), torch.cat([table[:, :prefix], rows], dim=1)


def _without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if not name.startswith("head.")}


def _why_ignored(name: str, own: dict[str, torch.Size]) -> str:
    if name.startswith(HEAD):
        return "the head of the pre-training"
    return "left out by the settings" if name in own else "of the pre-training only"


def _shapes(config: ViTConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: t.shape for name, t in ViT(config).state_dict().items()}


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
