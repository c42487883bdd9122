"""From one layout to another: read, write, and read again to compare.

A conversion is believed only when the file that was written gives back every tensor
bit by bit; otherwise nothing is left behind.
"""

import difflib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vitral.atomic_io import write_json
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import ModelConfig, ViTConfig, changed
from vitral.weights import file_metadata
from vitral.weights.checkpoint_facts import Source
from vitral.weights.files import write_npz, write_safetensors
from vitral.weights.layouts import Held, Layout, available_layouts
from vitral.weights.ledger import Action, Ledger, Line
from vitral.weights.load import read
from vitral.weights.mapping import Rule

TENSORS = "model.safetensors"


class Converted(NamedTuple):
    """What was written, and how."""

    path: Path
    ledger: Ledger


class Moved(NamedTuple):
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
) -> Converted:
    """Write the weights at `path` in another layout.

    Args:
        path: as for `load`.
        out: the file or folder to make; it must not exist.
        to: a layout's name, as `vitral convert --help` lists them.
        grid: rows and columns of the position table, where the file cannot tell.
        num_heads: heads per block, where the file cannot tell.

    Raises:
        WeightsError: the file cannot be read, or `out` cannot be written.
        ConfigError: `out` exists, or the layout cannot hold the model.
    """
    layout = named(to)
    place = Path(out).expanduser()
    _refuse_place(place, layout)
    known = None if grid is None else Grid(*grid)
    source = read(path, grid=known, num_heads=num_heads)
    moved = _with_class_rows(source, layout)
    if reason := layout.refuses(moved.config):
        raise ConfigError(
            f"{source.path} cannot be written in the layout of {layout.title}, because "
            f"{reason}. Layouts that can hold it: {', '.join(holders(source.config))}."
        )
    ours = tensors_of(source) | moved.tensors
    held = Held(
        config=moved.config, preprocess=source.preprocess, classes=source.classes
    )
    notes = _write(place, layout, held, ours)
    _compare(place, moved.config, ours)
    kept = (*source.notes, *([moved.note] if moved.note else []), *notes)
    lines = _lines(source, layout, moved)
    return Converted(place, Ledger(str(place), lines, kept, layout.title))


def named(to: str) -> Layout:
    """A layout by its module's name or its title.

    Raises:
        ConfigError: there is none; the nearest are in the message.
    """
    known = {
        **available_layouts(),
        **{layout.title: layout for layout in available_layouts().values()},
    }
    if to in known:
        return known[to]
    near = difflib.get_close_matches(to, known, n=2, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"Unknown layout `{to}`.{hint} vitral writes {', '.join(available_layouts())}."
    )


def holders(config: ModelConfig) -> list[str]:
    """The layouts that can hold a model, its class token's row moved where needed."""
    return [
        name
        for name, layout in available_layouts().items()
        if not layout.refuses(equal_config(config, layout))
    ]


def tensors_of(source: Source) -> dict[str, Tensor]:
    """All tensors of a model, in our names."""
    return {rule.ours: source.tensor(rule) for rule in source.rules}


def foreign(
    layout: Layout, config: ModelConfig, ours: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same tensors in a layout's names and shapes."""
    made: dict[str, Tensor] = {}
    for rule in layout.rules(config):
        made |= zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)
    return made


def _refuse_place(place: Path, layout: Layout) -> None:
    if place.exists():
        raise ConfigError(
            f"{place} exists; a conversion overwrites nothing. Give another name, or "
            "remove it."
        )
    suffix = f".{layout.container}"
    if layout.container == "folder":
        if place.suffix not in ("", ".safetensors") and place.suffix[1:].isalpha():
            raise ConfigError(
                f"{place} must be a folder for the layout of {layout.title}, or end "
                "in .safetensors for the tensors alone."
            )
    elif place.suffix != suffix:
        raise ConfigError(
            f"{place} must end in {suffix}: the layout of {layout.title} is one such "
            "file."
        )


def _write(
    place: Path, layout: Layout, held: Held, ours: Mapping[str, Tensor]
) -> list[str]:
    about = layout.describe(held)
    made = layout.pack({**foreign(layout, held.config, ours), **about.new})
    notes = list(about.notes)
    try:
        if layout.container == "npz":
            place.parent.mkdir(parents=True, exist_ok=True)
            write_npz(place, made)
        elif layout.container == "folder" and place.suffix != ".safetensors":
            place.mkdir(parents=True)
            write_safetensors(place / TENSORS, made, file_metadata.kept(held.config))
            for name, content in about.beside.items():
                write_json(place / name, dict(content))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(
                place, made, {**file_metadata.kept(held.config), **about.metadata}
            )
            notes += [f"{name} was left out" for name in about.beside]
    except WeightsError:
        _remove(place)
        raise
    except OSError as error:
        _remove(place)
        raise WeightsError(
            f"{place} cannot be written: {error}. Free some space or make the folder "
            "writable; the weights that were read are intact."
        ) from error
    return notes


def _compare(place: Path, config: ModelConfig, ours: Mapping[str, Tensor]) -> None:
    heads = config.num_heads if isinstance(config, ViTConfig) else None
    try:
        back = tensors_of(read(place, grid=config.grid, num_heads=heads))
    except WeightsError:
        _remove(place)
        raise
    different = [
        name
        for name in ours.keys() | back.keys()
        if name not in ours or name not in back or not _same(ours[name], back[name])
    ]
    if different:
        _remove(place)
        raise WeightsError(
            f"{place} did not give back what was written: {len(different)} tensors "
            f"differ, first {sorted(different)[0]}. It was removed; this is a fault "
            "of vitral, please report it with the names of both layouts."
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _lines(source: Source, layout: Layout, moved: Moved) -> tuple[Line, ...]:
    reading = {rule.ours: rule for rule in source.rules}
    lines = []
    for rule in layout.rules(moved.config):
        before = reading[rule.ours]
        action: Action = _action(before, rule)
        if rule.ours in moved.tensors:
            action = "reshaped"
        for name in rule.theirs:
            detail = "" if before.theirs == (name,) else f"from {before.theirs[0]}"
            if len(before.theirs) > 1 and len(rule.theirs) == 1:
                detail += f" and {len(before.theirs) - 1} more"
            lines.append(Line(name, action, detail))
    gone = [Line(name, "dropped", why) for name, why in source.dropped.items()]
    return (*lines, *gone)


def _action(before: Rule, after: Rule) -> Action:
    if len(before.theirs) != len(after.theirs):
        return "joined" if len(before.theirs) > len(after.theirs) else "split"
    if before.action == after.action:
        return "copied"
    kinds: list[Action] = [before.action, after.action]
    return next(
        (kind for kind in kinds if kind not in ("copied", "joined")), "transposed"
    )


def equal_config(config: ModelConfig, layout: Layout) -> ModelConfig:
    """The config with its class token's row where the layout wants it."""
    if not isinstance(config, ViTConfig) or config.position != "learned_1d":
        return config
    without = config.no_embed_class
    if not config.class_token:
        return config
    # Registers may lack a row where the class token has one: then none has a row.
    folds = config.num_prefix_positions == 1 and not without
    folded = changed(config, {"no_embed_class": True, "no_embed_reg": False})
    if layout.class_rows == "either":
        helps = folds and layout.refuses(config) and not layout.refuses(folded)
        return folded if helps else config
    if layout.class_rows == "without" and folds:
        return folded
    if layout.class_rows == "with" and without:
        rows = {"no_embed_class": False, "no_embed_reg": config.reg_tokens > 0}
        return changed(config, rows)
    return config


def _with_class_rows(source: Source, layout: Layout) -> Moved:
    """An equal function whose class token has, or has not, a row in the table."""
    old = source.config
    config = equal_config(old, layout)
    if config == old:
        return Moved(old, {}, "")
    rules = {rule.ours: rule for rule in source.rules}
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
    return Moved(config, tensors, f"{note}, as in {layout.title}: an equal function")
