"""Load a model from a weights file, with a ledger line for every tensor.

Each tensor is copied, changed, resized, new or dropped. A change of the function that
was not requested raises an error that names the tensor.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import vitral.models
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import ModelConfig, TimeSformerConfig, VisionModel
from vitral.models.meta_init import meta_init
from vitral.weights import zoo
from vitral.weights.channels import ChannelInit, adapt_channels, is_stem
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.detect import (
    detect_layout,
    open_weights,
    read_layout,
    resolve_path,
)
from vitral.weights.exported import is_exported, read_exported
from vitral.weights.files import align
from vitral.weights.inflate_video import inflate, resize_time_embed
from vitral.weights.layouts import naming_the_family, with_settings
from vitral.weights.ledger import Ledger, LedgerLine
from vitral.weights.mismatch import check
from vitral.weights.resize_positions import (
    is_bias_table,
    resize_bias_table,
    resize_pos_embed,
)

HEAD = ("head.", "head_dist.", "pre_logits.")
"""Prefixes of the task's parameters: only these may be new or dropped."""
CLASSIFIER = ("head.", "head_dist.")


class _LoadedParts(NamedTuple):
    model: VisionModel
    preprocess: Preprocess
    ledger: Ledger


class Loaded(_LoadedParts):
    """A model with its pre-processing and the ledger of its load: a tuple of the three.

    `extra` is the file's other metadata: see `WeightsSource.extra`.
    """

    extra: Mapping[str, Any]

    def __new__(
        cls,
        model: VisionModel,
        preprocess: Preprocess,
        ledger: Ledger,
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Loaded":
        # An attribute, no fourth item: callers unpack three.
        loaded = super().__new__(cls, model, preprocess, ledger)
        loaded.extra = extra
        return loaded


def read(
    path: str | Path,
    *,
    grid: Grid | None = None,
    num_heads: int | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> WeightsSource:
    """Read and check the weights of a path, a name or a hub id; see `load`."""
    found = resolve_path(path)
    opened = open_weights(found, grid=grid, num_heads=num_heads)
    layout = detect_layout(opened)
    with naming_the_family(opened):
        source = read_layout(layout, opened)
        known = getattr(source.config, "num_heads", num_heads)
        if num_heads is not None and known != num_heads:
            raise ConfigError(
                f"`num_heads={num_heads}` is not that of {opened.path}, which says "
                f"{known} itself. Leave it out."
            )
        check(source)
    source = zoo.apply_record(found, source)
    return with_settings(source, settings) if settings else source


def load(
    path: str | Path,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    *,
    grid: tuple[int, int] | None = None,
    num_heads: int | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Load a model from weights in any supported layout.

    Args:
        path: a model folder, a run folder or a weights file; a name such as
            `dinov2_s14` (`vitral weights list`) or a hub id, which are fetched once;
            or an exported model, an .onnx file or OpenVINO's folder, which gives
            logits and cannot be changed.
        num_classes: width of the head; None for the file's own. Another width than
            the file's gives a new head with zero weights.
        image_size: pixels, (height, width) or one number; None for the file's own, or
            for what the authors of named weights run them at.
        grid: rows and columns of the position table, where the file cannot tell.
        num_heads: heads per block, where the file cannot tell.
        settings: fields of the model's config that no tensor shows, where the file
            means others than those that are assumed: `{"global_pool": "avg"}`.
        dtype: precision of the model; None for float64 where the file has it, else
            float32.

    Raises:
        WeightsError: the file is missing, corrupt, refused, or of another model.
    """
    if is_exported(path):
        return _load_exported(path, num_classes, image_size, grid, num_heads)
    table_grid = None if grid is None else Grid(*grid)
    source = read(path, grid=table_grid, num_heads=num_heads, settings=settings)
    changes: dict[str, Any] = {}
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if image_size is not None or source.run_size:
        changes["image_size"] = image_size or source.run_size
    config = vitral.models.replace_config(source.config, changes)
    return build(source, config, dtype=dtype)


def _load_exported(path: str | Path, *changes: object) -> Loaded:
    if any(change is not None for change in changes):
        raise WeightsError(
            f"{path} is an exported model, whose head, size and heads are fixed: load "
            "it without changes, or change the run and export it again."
        )
    exported = read_exported(path)
    notes = (f"an exported graph, run by {exported.model.backend}",)
    ledger = Ledger(str(path), (), notes)
    return Loaded(exported.model, exported.preprocess, ledger, exported.extra)


def build(
    source: WeightsSource,
    config: ModelConfig,
    classes: tuple[str, ...] = (),
    channel_init: ChannelInit = "average",
    *,
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Build the model of `config` with the tensors of `source`.

    The head is new, with zero weights, if its width or `classes` differ from the
    file's. Positions are resized to the grid and the frames of `config`, patch weights
    changed to its channels (`adapt_channels`). A TimeSformer may start from the
    `source` of a plain Vision Transformer.

    Args:
        dtype: precision of the model; None for float64 where the file has it, else
            float32.

    Raises:
        WeightsError: a tensor that the model needs is missing or of another shape.
    """
    source = inflate(source, config)
    keep_head = not classes or classes == source.classes
    rules = source.by_name()
    # Meta device: overwritten initial values cost a second and twice the memory.
    with meta_init():
        model = vitral.models.build_model(config)
    fresh, dtype = _FreshInit(model, config), _computing_dtype(source, dtype)
    lines: list[LedgerLine] = []
    state: dict[str, Tensor] = {}
    for name, empty in model.state_dict().items():
        rule, tensor = rules.get(name), empty
        is_new = rule is None or (name.startswith(CLASSIFIER) and not keep_head)
        if rule is not None and not is_new:
            tensor = source.tensor(rule).to(dtype)
        is_new |= name.startswith(HEAD) and tensor.shape != empty.shape
        if rule is None or is_new:
            state[name] = fresh.tensor(name)
            lines.append(LedgerLine(name, "new", _new_reason(name, config)))
        elif name == "pos_embed" and tensor.shape != empty.shape:
            state[name] = resize_pos_embed(tensor, source, config, lines)
        elif is_bias_table(name, config) and tensor.shape != empty.shape:
            state[name] = resize_bias_table(name, tensor, source, config, lines)
        elif _is_other_num_frames(name, tensor, empty):
            assert isinstance(config, TimeSformerConfig)
            state[name] = resize_time_embed(tensor, config, lines)
        elif is_stem(name, tensor, empty, source.config, config):
            state[name] = adapt_channels(tensor, config.in_chans, channel_init)
            detail = f"{tensor.shape[1]} -> {config.in_chans} channels, {channel_init}"
            lines.append(LedgerLine(name, "resized", detail))
        elif tensor.shape != empty.shape:
            raise WeightsError(
                f"{source.path}: tensor {name} has shape {tuple(tensor.shape)}, but "
                f"the model needs {tuple(empty.shape)}. The setting that decides this "
                "shape was changed; leave it as the weights have it."
            )
        else:
            state[name] = tensor
            lines.append(LedgerLine(name, rule.action, _origin(rule.theirs, name)))
    # A rule may have cut a tensor out of another one, at an unaligned address.
    state = {name: align(tensor.to(dtype)) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    lines += _dropped_lines(source, set(state))
    notes = (*source.notes, *_precision_notes(source, dtype))
    ledger = Ledger(str(source.path), tuple(lines), notes, source.layout)
    preprocess = replace(source.preprocess, image_size=config.image_hw)
    preprocess = preprocess.with_channels(config.in_chans)
    return Loaded(model.eval(), preprocess, ledger, source.extra)


class _FreshInit:
    """Initial values of the parameters that a file lacks, built on first use."""

    def __init__(self, model: nn.Module, config: ModelConfig) -> None:
        self.model, self.config = model, config
        self.state: dict[str, Tensor] | None = None

    def tensor(self, name: str) -> Tensor:
        parts = name.rsplit(".", 1)
        owner = self.model.get_submodule(parts[0]) if len(parts) > 1 else self.model
        if name.startswith(CLASSIFIER):
            # Zero weights and the first bias are what reset_head gives.
            parameter = getattr(owner, parts[-1])
            bias = parts[-1] == "bias"
            return torch.full(parameter.shape, self.config.head_bias if bias else 0.0)
        if self.state is None:
            self.state = vitral.models.build_model(self.config).state_dict()
        return self.state[name]


def _precision_notes(source: WeightsSource, dtype: torch.dtype) -> list[str]:
    stored = {source.file.dtype(name) for name in source.file.names()}
    notes = []
    if torch.float64 in stored and dtype == torch.float64:
        notes.append("the model computes in float64, as its tensors are stored")
    elif torch.float64 in stored:
        notes.append("tensors of float64 are used in float32")
    small = [it for it in stored if it.is_floating_point and it.itemsize < 2]
    if small:
        names = ", ".join(sorted(str(it).removeprefix("torch.") for it in small))
        notes.append(f"tensors of {names} are used as they are: the file has no scale")
    return notes


def _computing_dtype(source: WeightsSource, dtype: torch.dtype | None) -> torch.dtype:
    """Return the precision that a model computes in: of no less than float32."""
    stored = {source.file.dtype(name) for name in source.file.names()}
    wide = torch.float64 in stored
    return dtype or (torch.float64 if wide else torch.float32)


def _is_other_num_frames(name: str, tensor: Tensor, empty: Tensor) -> bool:
    """Return whether `tensor` holds time positions of another number of frames."""
    frames = tensor.ndim == 3 and tensor.shape[1] != empty.shape[1]
    return name == "time_embed" and frames and tensor.shape[2] == empty.shape[2]


def _dropped_lines(source: WeightsSource, made: set[str]) -> list[LedgerLine]:
    """Return ledger lines of the tensors that the model does not have."""
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


def _new_reason(name: str, config: ModelConfig) -> str:
    if name.startswith(CLASSIFIER):
        return f"zero, for {config.num_classes} classes"
    return "the file has no such part"


def _origin(theirs: tuple[str, ...], name: str) -> str:
    if theirs == (name,):
        return ""
    if not theirs:
        return "zero: the file's model has none"
    if len(theirs) == 1:
        return f"from {theirs[0]}"
    return f"from {theirs[0]} and {len(theirs) - 1} more"
