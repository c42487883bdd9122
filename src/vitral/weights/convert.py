"""Convert weights to another layout: read, write, and read again to compare.

If the written file does not give back every tensor bit by bit, it is removed.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from vitral.atomic_io import write_json
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import ModelConfig, ViTConfig, replace_config
from vitral.validation import suggestion
from vitral.weights import file_metadata
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.files import write_npz, write_safetensors
from vitral.weights.layouts import Layout, ModelSpec, available_layouts
from vitral.weights.ledger import Action, Ledger, LedgerLine
from vitral.weights.load import read
from vitral.weights.mapping import TensorMapping

TENSORS = "model.safetensors"
Describe = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Takes the extra of a file, and returns keys to add to it."""


@dataclass(frozen=True, slots=True)
class Converted:
    """Path and ledger of a conversion."""

    path: Path
    ledger: Ledger


RECORD = {
    "model",
    "weights",
    "pretrained",
    "license",
    "ledger",
    "notes",
    "step",
    "objective",
    "precision",
}
"""Keys on how a model was trained, which change none of its answers."""


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A model whose class-token row was moved, with the tensors that this changed."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    note: str


def convert(
    path: str | Path,
    out: str | Path,
    to: str,
    *,
    grid: tuple[int, int] | None = None,
    num_heads: int | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    describe: Describe | None = None,
) -> Converted:
    """Write the weights at `path` in another layout.

    Args:
        path: as for `load`.
        out: the file or folder to make; it must not exist.
        to: a layout's name, as `vitral convert --help` lists them.
        grid: rows and columns of the position table, where the file cannot tell.
        num_heads: heads per block, where the file cannot tell.
        settings: as for `load`.
        describe: gets the file's extra and returns keys to add, such as the
            `problem_type` of a file that was written before it had one. The file's own
            keys stay as they are. None adds nothing.

    Raises:
        WeightsError: the file cannot be read, or `out` cannot be written.
        ConfigError: `out` exists, or the layout cannot hold the model.
    """
    layout = get_layout(to)
    output = Path(out).expanduser()
    _require_free_path(output, layout)
    table_grid = None if grid is None else Grid(*grid)
    source = read(path, grid=table_grid, num_heads=num_heads, settings=settings)
    moved = _adapt_class_token(source, layout)
    if reason := layout.unsupported_reason(moved.config):
        raise ConfigError(
            f"{source.path} cannot be written in the layout of {layout.title}, because "
            f"{reason}. Layouts that can hold it: "
            f"{', '.join(compatible_layouts(source.config))}."
        )
    ours = read_tensors(source) | moved.tensors
    added = {} if describe is None else describe(dict(source.extra))
    spec = ModelSpec(
        config=moved.config,
        preprocess=source.preprocess,
        classes=source.classes,
        extra={**added, **source.extra},
    )
    notes = _write(output, layout, spec, ours)
    if source.preprocess.value_range and layout.title != source.layout:
        low, high = source.preprocess.value_range
        notes.append(
            f"the layout cannot say that file values from {low:g} to {high:g} become 0 "
            "to 1: scale them before its mean and deviation"
        )
    back = _compare(output, moved.config, ours)
    notes += _lost_extra(spec, back, layout)
    all_notes = (*source.notes, *([moved.note] if moved.note else []), *notes)
    lines = _lines(source, layout, moved)
    return Converted(output, Ledger(str(output), lines, all_notes, layout.title))


def get_layout(to: str) -> Layout:
    """Return a layout by its module's name or its title."""
    by_title = {layout.title: layout for layout in available_layouts().values()}
    by_name = {**available_layouts(), **by_title}
    if to in by_name:
        return by_name[to]
    hint = suggestion(to, by_name, cutoff=0.4)
    raise ConfigError(
        f"Unknown layout `{to}`.{hint} vitral writes {', '.join(available_layouts())}."
    )


def compatible_layouts(config: ModelConfig) -> list[str]:
    """Return the layouts that can hold a model, perhaps with its class token moved."""
    return [
        name
        for name, layout in available_layouts().items()
        if not layout.unsupported_reason(adapt_config(config, layout))
    ]


def read_tensors(source: WeightsSource) -> dict[str, Tensor]:
    """Return all tensors of a model, in native names."""
    return {rule.ours: source.tensor(rule) for rule in source.mappings}


def to_foreign_tensors(
    layout: Layout, config: ModelConfig, ours: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the same tensors in a layout's names and shapes."""
    foreign: dict[str, Tensor] = {}
    for rule in layout.mappings(config):
        foreign |= zip(rule.theirs, rule.to_foreign(ours[rule.ours]), strict=True)
    return foreign


def _require_free_path(out: Path, layout: Layout) -> None:
    if out.exists():
        raise ConfigError(
            f"{out} exists; a conversion overwrites nothing. Give another name, or "
            "remove it."
        )
    suffix = f".{layout.container}"
    if layout.container == "folder":
        if out.suffix not in ("", ".safetensors") and out.suffix[1:].isalpha():
            raise ConfigError(
                f"{out} must be a folder for the layout of {layout.title}, or end "
                "in .safetensors for the tensors alone."
            )
    elif out.suffix != suffix:
        raise ConfigError(
            f"{out} must end in {suffix}: the layout of {layout.title} is one such "
            "file."
        )


def _write(
    out: Path, layout: Layout, spec: ModelSpec[Any], ours: Mapping[str, Tensor]
) -> list[str]:
    output = layout.make_output(spec)
    tensors = layout.pack(
        {**to_foreign_tensors(layout, spec.config, ours), **output.new}
    )
    notes = list(output.notes)
    metadata = file_metadata.make_metadata(spec.config)
    is_folder = layout.container == "folder" and out.suffix != ".safetensors"
    try:
        (out if is_folder else out.parent).mkdir(parents=True, exist_ok=not is_folder)
        if layout.container == "npz":
            write_npz(out, tensors)
        elif is_folder:
            write_safetensors(out / TENSORS, tensors, metadata)
            for name, content in output.sidecar_files.items():
                write_json(out / name, dict(content))
        else:
            write_safetensors(out, tensors, metadata)
            notes += [f"{name} was left out" for name in output.sidecar_files]
    except WeightsError:
        _remove(out)
        raise
    except OSError as error:
        _remove(out)
        raise WeightsError(
            f"{out} cannot be written: {error}. Free some space or make the folder "
            "writable; the weights that were read are intact."
        ) from error
    return notes


def _compare(
    out: Path, config: ModelConfig, ours: Mapping[str, Tensor]
) -> WeightsSource:
    """Return what is read of the written file, if its tensors are those of `ours`."""
    heads = config.num_heads if isinstance(config, ViTConfig) else None
    try:
        written = read(out, grid=config.grid, num_heads=heads)
        back = read_tensors(written)
    except WeightsError:
        _remove(out)
        raise
    different = [
        name
        for name in ours.keys() | back.keys()
        if name not in ours
        or name not in back
        or not _equal_tensors(ours[name], back[name])
    ]
    if different:
        _remove(out)
        raise WeightsError(
            f"{out} did not give back what was written: {len(different)} tensors "
            f"differ, first {sorted(different)[0]}. It was removed; this is a fault "
            "of vitral, please report it with the names of both layouts."
        )
    return written


def _lost_extra(
    spec: ModelSpec[Any], written: WeightsSource, layout: Layout
) -> list[str]:
    """Return a note on the metadata that the written file does not give back."""
    lost = {key for key in spec.extra if key not in written.extra}
    named = sorted(lost - RECORD) + ["record of the training"] * bool(lost & RECORD)
    if not named:
        return []
    return [f"{layout.title} keeps no {', '.join(named)} with these weights"]


def _equal_tensors(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _remove(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)


def _lines(
    source: WeightsSource, layout: Layout, adapted: AdaptedModel
) -> tuple[LedgerLine, ...]:
    by_name = source.by_name()
    lines = []
    for rule in layout.mappings(adapted.config):
        before = by_name[rule.ours]
        action: Action = _action(before, rule)
        if rule.ours in adapted.tensors:
            action = "reshaped"
        for name in rule.theirs:
            detail = (
                "" if before.theirs in ((name,), ()) else f"from {before.theirs[0]}"
            )
            if len(before.theirs) > 1 and len(rule.theirs) == 1:
                detail += f" and {len(before.theirs) - 1} more"
            lines.append(LedgerLine(name, action, detail))
    dropped = [LedgerLine(name, "dropped", why) for name, why in source.dropped.items()]
    return (*lines, *dropped)


def _action(before: TensorMapping, after: TensorMapping) -> Action:
    if not before.theirs:
        return "new"
    if len(before.theirs) != len(after.theirs):
        return "joined" if len(before.theirs) > len(after.theirs) else "split"
    if before.action == after.action:
        return "copied"
    actions: list[Action] = [before.action, after.action]
    return next(
        (action for action in actions if action not in ("copied", "joined")),
        "transposed",
    )


def adapt_config(config: ModelConfig, layout: Layout) -> ModelConfig:
    """Return the config with the class token's row that the layout needs."""
    if not isinstance(config, ViTConfig) or config.position != "learned_1d":
        return config
    without = config.no_embed_class
    if not config.class_token:
        return config
    # Registers may lack a row where the class token has one: then none has a row.
    folds = config.num_prefix_positions == 1 and not without
    folded = replace_config(config, {"no_embed_class": True, "no_embed_reg": False})
    if layout.class_token_row == "either":
        helps = (
            folds
            and layout.unsupported_reason(config)
            and not layout.unsupported_reason(folded)
        )
        return folded if helps else config
    if layout.class_token_row == "without" and folds:
        return folded
    if layout.class_token_row == "with" and without:
        rows = {"no_embed_class": False, "no_embed_reg": config.reg_tokens > 0}
        return replace_config(config, rows)
    return config


def _adapt_class_token(source: WeightsSource, layout: Layout) -> AdaptedModel:
    """Return an equal function with or without a position row for the class token."""
    old = source.config
    config = adapt_config(old, layout)
    if config == old:
        return AdaptedModel(old, {}, "")
    rules = source.by_name()
    cls, table = (source.tensor(rules[name]) for name in ("cls_token", "pos_embed"))
    assert isinstance(config, ViTConfig)
    if config.no_embed_class:
        note = "the class token's position was added to the token itself"
        tensors = {"cls_token": cls + table[:, :1], "pos_embed": table[:, 1:]}
    else:
        note = "the class token got a position of zeros"
        zero = torch.zeros_like(table[:, :1])
        # A distillation token has a row like the class token.
        zero = zero.repeat(1, config.num_prefix_positions, 1)
        tensors = {"cls_token": cls, "pos_embed": torch.cat([zero, table], dim=1)}
    return AdaptedModel(
        config, tensors, f"{note}, as in {layout.title}: an equal function"
    )
