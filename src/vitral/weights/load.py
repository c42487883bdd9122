"""From a weights file to a model, and a line for every tensor.

Nothing is skipped in silence: a tensor is copied, changed, resized, new or dropped,
and the ledger says why. Anything that would change the function without being asked
for is an error that names the tensor.
"""

import difflib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import vitral.models
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid, resize
from vitral.models import ModelConfig, TimeSformerConfig, VisionModel, ViTConfig
from vitral.models.meta_init import unfilled
from vitral.weights.checkpoint_facts import Source
from vitral.weights.detect import understand
from vitral.weights.exported import is_artefact, read_artefact
from vitral.weights.inflate_video import resized_in_time, started
from vitral.weights.ledger import Ledger, Line

HEAD = ("head.", "head_dist.", "pre_logits.")
"""First letters of what belongs to the task: all that may be new, or left behind."""
CLASSIFIER = ("head.", "head_dist.")
SHOWN = 4


class Loaded(NamedTuple):
    """A model with the pre-processing that belongs to it, and how it was loaded."""

    model: VisionModel
    preprocess: Preprocess
    ledger: Ledger


def read(
    path: str | Path, *, grid: Grid | None = None, num_heads: int | None = None
) -> Source:
    """What a file, a folder or a hub id holds, checked; see `load`."""
    source = understand(path, grid=grid, num_heads=num_heads)
    check(source)
    return source


def load(
    path: str | Path,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Loaded:
    """A model from weights in any layout that vitral knows.

    Args:
        path: a model folder, a run folder, a weights file, or a hub id such as
            `timm/vit_tiny_patch16_224.augreg_in21k`; or an exported model, an .onnx
            file or OpenVINO's folder, which gives logits and cannot be changed.
        num_classes: width of the head; None for the file's own. Another width than
            the file's gives a new head with zero weights.
        image_size: pixels, (height, width) or one number; None for the file's own.
        grid: rows and columns of the position table, where the file cannot tell.
        num_heads: heads per block, where the file cannot tell.

    Raises:
        WeightsError: the file is missing, corrupt, refused, or of another model.
    """
    if is_artefact(path):
        return _exported(path, num_classes, image_size, grid, num_heads)
    known = None if grid is None else Grid(*grid)
    source = read(path, grid=known, num_heads=num_heads)
    changes: dict[str, Any] = {}
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if image_size is not None:
        changes["image_size"] = image_size
    return build(source, vitral.models.changed(source.config, changes))


def _exported(path: str | Path, *changes: object) -> Loaded:
    if any(change is not None for change in changes):
        raise WeightsError(
            f"{path} is an exported model, whose head, size and heads are fixed: load "
            "it without changes, or change the run and export it again."
        )
    found = read_artefact(path)
    notes = (f"an exported graph, run by {found.model.backend}",)
    return Loaded(found.model, found.preprocess, Ledger(str(path), (), notes))


def build(source: Source, config: ModelConfig, classes: tuple[str, ...] = ()) -> Loaded:
    """The model `config` with the tensors of `source`.

    The head is new, with zero weights, if its width differs or `classes` are others
    than the file's; positions are resized to the grid and the frames of `config`. A
    TimeSformer may start from the `source` of a plain Vision Transformer.

    Raises:
        WeightsError: a tensor that the model needs is missing or of another shape.
    """
    source = started(source, config)
    keep_head = not classes or classes == source.classes
    rules = {rule.ours: rule for rule in source.rules}
    # On the meta device: initial values that are overwritten cost a second and twice
    # the memory.
    with unfilled():
        model = vitral.models.build(config)
    fresh = _Fresh(model, config)
    lines: list[Line] = []
    state: dict[str, Tensor] = {}
    for name, empty in model.state_dict().items():
        rule = rules.get(name)
        if rule is None or (name.startswith(CLASSIFIER) and not keep_head):
            state[name] = fresh.tensor(name)
            lines.append(Line(name, "new", _why_new(name, config)))
            continue
        tensor = _at_least_float32(source.tensor(rule))
        if name.startswith(HEAD) and tensor.shape != empty.shape:
            state[name] = fresh.tensor(name)
            lines.append(Line(name, "new", _why_new(name, config)))
        elif name == "pos_embed" and tensor.shape != empty.shape:
            state[name] = _resized(tensor, source, config, lines)
        elif _is_longer_or_shorter(name, tensor, empty):
            assert isinstance(config, TimeSformerConfig)
            state[name] = resized_in_time(tensor, config, lines)
        elif tensor.shape != empty.shape:
            raise WeightsError(
                f"{source.path}: tensor {name} has shape {tuple(tensor.shape)}, but "
                f"the model needs {tuple(empty.shape)}. The setting that decides this "
                "shape was changed; leave it as the weights have it."
            )
        else:
            state[name] = tensor
            lines.append(Line(name, rule.action, _from(rule.theirs, name)))
    kind = _widest(state)
    state = {name: tensor.to(kind) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    lines += _left(source, set(state))
    title = source.layout
    ledger = Ledger(str(source.path), tuple(lines), source.notes, title)
    preprocess = replace(source.preprocess, image_size=config.image_hw)
    return Loaded(model.eval(), preprocess, ledger)


def _widest(state: dict[str, Tensor]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    return torch.float64 if wide else torch.float32


def check(source: Source) -> None:
    """Whether the file has every tensor of its model in its shape, and none beside.

    Raises:
        WeightsError: naming the tensor, what was expected, and what to do.
    """
    found = misfits(source)
    if found.missing or found.unknown:
        raise WeightsError(_misfit(source, found))
    if found.misshapen:
        raise WeightsError(
            f"{source.path}: {found.misshapen[0]}. Write it again in the shape of its "
            f"layout, {source.layout}; no tensor was loaded."
        )


class Misfits(NamedTuple):
    """Where a file and the model that its shapes describe disagree."""

    missing: list[str]
    """Tensors that the model needs, in the file's names."""
    unknown: list[str]
    """Tensors of the file that the model has no place for."""
    misshapen: list[str]
    """Sentences: a tensor's shape, and the one that was expected."""


def misfits(source: Source) -> Misfits:
    """Everything that keeps a file from being loaded; all empty when nothing does."""
    shapes = vitral.models.tensor_shapes(source.config)
    rules = {rule.ours: rule for rule in source.rules}
    used = {name for rule in source.rules for name in rule.theirs}
    found = Misfits([], [], [])
    for name in source.file.names():
        if name not in used and name not in source.dropped:
            found.unknown.append(name)
    for name, shape in shapes.items():
        rule = rules.get(name)
        if rule is None:
            found.missing.append(name)
            continue
        for theirs, wanted in zip(rule.theirs, rule.expected(shape), strict=True):
            if theirs not in source.file:
                found.missing.append(theirs)
                continue
            has = source.file.shape(theirs)
            if has != wanted and has not in rule.also:
                turned = ": it is transposed" if has == wanted[::-1] else ""
                found.misshapen.append(
                    f"tensor {theirs} has shape {has}, expected {wanted}{turned}"
                )
    return found


class _Fresh:
    """Initial values of the parts that a file does not give."""

    def __init__(self, model: nn.Module, config: ModelConfig) -> None:
        self.model, self.config = model, config
        self.state: dict[str, Tensor] | None = None

    def tensor(self, name: str) -> Tensor:
        parts = name.rsplit(".", 1)
        owner = self.model.get_submodule(parts[0]) if len(parts) > 1 else self.model
        if name.startswith(CLASSIFIER):
            # Zero weights and the first bias are what reset_head gives.
            like = getattr(owner, parts[-1])
            bias = parts[-1] == "bias"
            return torch.full(like.shape, self.config.head_bias if bias else 0.0)
        if self.state is None:
            self.state = vitral.models.build(self.config).state_dict()
        return self.state[name]


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Halves are for storing: a model computes in float32 unless autocast says so."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def _is_longer_or_shorter(name: str, tensor: Tensor, empty: Tensor) -> bool:
    """Whether these are time positions of another number of frames."""
    frames = tensor.ndim == 3 and tensor.shape[1] != empty.shape[1]
    return name == "time_embed" and frames and tensor.shape[2] == empty.shape[2]


def _resized(
    table: Tensor, source: Source, config: ModelConfig, lines: list[Line]
) -> Tensor:
    old = source.config
    assert isinstance(old, ViTConfig)
    assert isinstance(config, ViTConfig)
    prefix = old.num_prefix_positions
    same_rows = prefix == config.num_prefix_positions
    fits = table.shape[1:] == (prefix + math.prod(old.grid), config.embed_dim)
    if not (same_rows and fits and old.grid != config.grid):
        raise WeightsError(
            f"{source.path}: tensor pos_embed has shape {tuple(table.shape)}, but "
            f"the model needs {config.num_prefix_positions} + "
            f"{math.prod(config.grid)} rows of {config.embed_dim}. The setting that "
            "decides this shape was changed; leave it as the weights have it."
        )
    method = config.position_resize
    rows = resize(table[:, prefix:], old.grid, config.grid, method)
    detail = f"{old.grid.rows} x {old.grid.columns} -> {config.grid.rows} x "
    detail += f"{config.grid.columns} patches, {method}"
    lines.append(Line("pos_embed", "resized", detail))
    return torch.cat([table[:, :prefix], rows], dim=1)


def _left(source: Source, made: set[str]) -> list[Line]:
    """Lines of what the file has and the model has not."""
    lines = []
    for rule in source.rules:
        if rule.ours not in made:
            why = "left out by the settings"
            if rule.ours.startswith(HEAD):
                why = "the head of the pre-training"
            lines += [Line(name, "dropped", why) for name in rule.theirs]
    return lines + [Line(name, "dropped", why) for name, why in source.dropped.items()]


def _misfit(source: Source, found: Misfits) -> str:
    missing, unknown = found.missing, found.unknown
    text = f"{source.path} does not fit the model that its shapes describe: it lacks "
    text += f"{_some(missing)} and has {_some(unknown)} that the model has no place for"
    if missing and unknown:
        near = difflib.get_close_matches(missing[0], unknown, n=1, cutoff=0.8)
        if near:
            text += f" ({near[0]} looks like {missing[0]}, renamed)"
    return f"{text}. Give the names of its layout, {source.layout}, or another file."


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return ", ".join(names[:SHOWN]) + more


def _why_new(name: str, config: ModelConfig) -> str:
    if name.startswith(CLASSIFIER):
        return f"zero, for {config.num_classes} classes"
    return "the file has no such part"


def _from(theirs: tuple[str, ...], name: str) -> str:
    if theirs == (name,):
        return ""
    if len(theirs) == 1:
        return f"from {theirs[0]}"
    return f"from {theirs[0]} and {len(theirs) - 1} more"
