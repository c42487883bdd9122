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
from vitral.models.meta_init import meta_init
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.detect import resolve_source
from vitral.weights.exported import is_exported, read_exported
from vitral.weights.files import align
from vitral.weights.inflate_video import inflate, resize_time_embed
from vitral.weights.ledger import Ledger, LedgerLine

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
) -> WeightsSource:
    """What a file, a folder or a hub id holds, checked; see `load`."""
    source = resolve_source(path, grid=grid, num_heads=num_heads)
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
    if is_exported(path):
        return _load_exported(path, num_classes, image_size, grid, num_heads)
    known = None if grid is None else Grid(*grid)
    source = read(path, grid=known, num_heads=num_heads)
    changes: dict[str, Any] = {}
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if image_size is not None:
        changes["image_size"] = image_size
    return build(source, vitral.models.replace_config(source.config, changes))


def _load_exported(path: str | Path, *changes: object) -> Loaded:
    if any(change is not None for change in changes):
        raise WeightsError(
            f"{path} is an exported model, whose head, size and heads are fixed: load "
            "it without changes, or change the run and export it again."
        )
    found = read_exported(path)
    notes = (f"an exported graph, run by {found.model.backend}",)
    return Loaded(found.model, found.preprocess, Ledger(str(path), (), notes))


def build(
    source: WeightsSource, config: ModelConfig, classes: tuple[str, ...] = ()
) -> Loaded:
    """The model `config` with the tensors of `source`.

    The head is new, with zero weights, if its width differs or `classes` are others
    than the file's; positions are resized to the grid and the frames of `config`. A
    TimeSformer may start from the `source` of a plain Vision Transformer.

    Raises:
        WeightsError: a tensor that the model needs is missing or of another shape.
    """
    source = inflate(source, config)
    keep_head = not classes or classes == source.classes
    rules = {rule.ours: rule for rule in source.mappings}
    # On the meta device: initial values that are overwritten cost a second and twice
    # the memory.
    with meta_init():
        model = vitral.models.build_model(config)
    fresh = _FreshInit(model, config)
    lines: list[LedgerLine] = []
    state: dict[str, Tensor] = {}
    for name, empty in model.state_dict().items():
        rule = rules.get(name)
        if rule is None or (name.startswith(CLASSIFIER) and not keep_head):
            state[name] = fresh.tensor(name)
            lines.append(LedgerLine(name, "new", _new_reason(name, config)))
            continue
        tensor = _at_least_float32(source.tensor(rule))
        if name.startswith(HEAD) and tensor.shape != empty.shape:
            state[name] = fresh.tensor(name)
            lines.append(LedgerLine(name, "new", _new_reason(name, config)))
        elif name == "pos_embed" and tensor.shape != empty.shape:
            state[name] = _resize_pos_embed(tensor, source, config, lines)
        elif _is_other_num_frames(name, tensor, empty):
            assert isinstance(config, TimeSformerConfig)
            state[name] = resize_time_embed(tensor, config, lines)
        elif tensor.shape != empty.shape:
            raise WeightsError(
                f"{source.path}: tensor {name} has shape {tuple(tensor.shape)}, but "
                f"the model needs {tuple(empty.shape)}. The setting that decides this "
                "shape was changed; leave it as the weights have it."
            )
        else:
            state[name] = tensor
            lines.append(LedgerLine(name, rule.action, _origin(rule.theirs, name)))
    dtype = _widest_dtype(state)
    # A rule may have cut a tensor out of another one, at an unaligned address.
    state = {name: align(tensor.to(dtype)) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    lines += _dropped_lines(source, set(state))
    title = source.layout
    ledger = Ledger(str(source.path), tuple(lines), source.notes, title)
    preprocess = replace(source.preprocess, image_size=config.image_hw)
    return Loaded(model.eval(), preprocess, ledger)


def _widest_dtype(state: dict[str, Tensor]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    return torch.float64 if wide else torch.float32


def check(source: WeightsSource) -> None:
    """Whether the file has every tensor of its model in its shape, and none beside.

    Raises:
        WeightsError: naming the tensor, what was expected, and what to do.
    """
    found = find_mismatches(source)
    if found.missing or found.unexpected:
        raise WeightsError(_mismatch_message(source, found))
    if found.mismatched:
        raise WeightsError(
            f"{source.path}: {found.mismatched[0]}. Write it again in the shape of its "
            f"layout, {source.layout}; no tensor was loaded."
        )


class KeyMismatch(NamedTuple):
    """Where a file and the model that its shapes describe disagree."""

    missing: list[str]
    """Tensors that the model needs, in the file's names."""
    unexpected: list[str]
    """Tensors of the file that the model has no place for."""
    mismatched: list[str]
    """Sentences: a tensor's shape, and the one that was expected."""


def find_mismatches(source: WeightsSource) -> KeyMismatch:
    """Everything that keeps a file from being loaded; all empty when nothing does."""
    shapes = vitral.models.tensor_shapes(source.config)
    rules = {rule.ours: rule for rule in source.mappings}
    used = {name for rule in source.mappings for name in rule.theirs}
    found = KeyMismatch([], [], [])
    for name in source.file.names():
        if name not in used and name not in source.dropped:
            found.unexpected.append(name)
    for name, shape in shapes.items():
        rule = rules.get(name)
        if rule is None:
            found.missing.append(name)
            continue
        for theirs, wanted in zip(
            rule.theirs, rule.expected_shapes(shape), strict=True
        ):
            if theirs not in source.file:
                found.missing.append(theirs)
                continue
            has = source.file.shape(theirs)
            if has != wanted and has not in rule.accepted_shapes:
                turned = ": it is transposed" if has == wanted[::-1] else ""
                found.mismatched.append(
                    f"tensor {theirs} has shape {has}, expected {wanted}{turned}"
                )
    return found


class _FreshInit:
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
            self.state = vitral.models.build_model(self.config).state_dict()
        return self.state[name]


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Halves are for storing: a model computes in float32 unless autocast says so."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def _is_other_num_frames(name: str, tensor: Tensor, empty: Tensor) -> bool:
    """Whether these are time positions of another number of frames."""
    frames = tensor.ndim == 3 and tensor.shape[1] != empty.shape[1]
    return name == "time_embed" and frames and tensor.shape[2] == empty.shape[2]


def _resize_pos_embed(
    table: Tensor, source: WeightsSource, config: ModelConfig, lines: list[LedgerLine]
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
    lines.append(LedgerLine("pos_embed", "resized", detail))
    return torch.cat([table[:, :prefix], rows], dim=1)


def _dropped_lines(source: WeightsSource, made: set[str]) -> list[LedgerLine]:
    """Lines of what the file has and the model has not."""
    lines = []
    for rule in source.mappings:
        if rule.ours not in made:
            why = "left out by the settings"
            if rule.ours.startswith(HEAD):
                why = "the head of the pre-training"
            lines += [LedgerLine(name, "dropped", why) for name in rule.theirs]
    return lines + [
        LedgerLine(name, "dropped", why) for name, why in source.dropped.items()
    ]


def _mismatch_message(source: WeightsSource, mismatch: KeyMismatch) -> str:
    missing, unknown = mismatch.missing, mismatch.unexpected
    text = f"{source.path} does not fit the model that its shapes describe: it lacks "
    text += (
        f"{_join_names(missing)} and has {_join_names(unknown)} that the model has "
        "no place for"
    )
    if missing and unknown:
        near = difflib.get_close_matches(missing[0], unknown, n=1, cutoff=0.8)
        if near:
            text += f" ({near[0]} looks like {missing[0]}, renamed)"
    return f"{text}. Give the names of its layout, {source.layout}, or another file."


def _join_names(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return ", ".join(names[:SHOWN]) + more


def _new_reason(name: str, config: ModelConfig) -> str:
    if name.startswith(CLASSIFIER):
        return f"zero, for {config.num_classes} classes"
    return "the file has no such part"


def _origin(theirs: tuple[str, ...], name: str) -> str:
    if theirs == (name,):
        return ""
    if len(theirs) == 1:
        return f"from {theirs[0]}"
    return f"from {theirs[0]} and {len(theirs) - 1} more"
