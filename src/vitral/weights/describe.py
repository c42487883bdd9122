"""Describe a weights file: its model, whether it would load, what is missing."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vitral.models
from vitral.errors import VitralError, WeightsError
from vitral.layers import Grid
from vitral.models import ModelConfig, ViTConfig
from vitral.models.meta_init import meta_init
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.convert import compatible_layouts
from vitral.weights.detect import (
    detect_layout,
    open_weights,
    read_layout,
    resolve_path,
)
from vitral.weights.files import TensorFile
from vitral.weights.mismatch import find_mismatches

SHOWN = 40


@dataclass(frozen=True)
class Explanation:
    """Lines about a file, and the reason why it would not load."""

    facts: tuple[tuple[str, str], ...]
    """Label and text of each line."""
    problem: str
    """Empty if it would load."""

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.facts)
        return "\n".join(f"{label:{width}}  {text}" for label, text in self.facts)


def explain(
    path: str | Path,
    *,
    grid: tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Explanation:
    """Return everything known of a file without building its model.

    Every value is read once, to find values that are not finite.

    Raises:
        WeightsError: there is no file, or it is refused before anything is known.
    """
    table_grid = None if grid is None else Grid(*grid)
    opened = open_weights(resolve_path(path), grid=table_grid, num_heads=num_heads)
    facts = [("file", _file(opened.file))]
    facts += [("note", note) for note in opened.notes]
    try:
        layout = detect_layout(opened)
        facts.append(("layout", layout.title))
        source = read_layout(layout, opened)
    except VitralError as error:
        return _make_explanation(facts, str(error))
    facts += _model(source)
    problems = _problems(source)
    facts += [("problem", text) for text in problems[:SHOWN]]
    if problems[SHOWN:]:
        facts.append(("problem", f"and {len(problems) - SHOWN} more"))
    if problems:
        summary = f"{len(problems)} problems, first: {problems[0]}"
        return _make_explanation(facts, summary)
    facts.append(("fits", ", ".join(compatible_layouts(source.config))))
    return _make_explanation(facts, "")


def _make_explanation(facts: list[tuple[str, str]], problem: str) -> Explanation:
    verdict = f"no: {problem}" if problem else "yes"
    return Explanation((*facts, ("would load", verdict)), problem)


def _file(file: TensorFile) -> str:
    names = file.names()
    values = sum(math.prod(file.shape(name)) for name in names)
    dtypes = Counter(str(file.dtype(name)).removeprefix("torch.") for name in names)
    size = file.disk_size() / 2**20
    return (
        f"{file.path} ({file.format}, {size:,.1f} MiB, {len(names)} tensors, "
        f"{values:,} values, {', '.join(dtypes)})"
    )


def _model(source: WeightsSource) -> list[tuple[str, str]]:
    config, pixels = source.config, source.preprocess
    with meta_init():
        model = vitral.models.build_model(config)
    count = vitral.models.count_parameters(model)
    name = vitral.models.get_model_name(config) or vitral.models.get_family_name(config)
    size = f"{config.image_hw[0]} x {config.image_hw[1]}"
    return [
        (
            "model",
            f"{name}, {count:,} parameters, {config.macs() / 1e9:.2f} GMACs at {size}",
        ),
        ("patches", _patches(config)),
        ("head", _head(source)),
        (
            "pixels",
            f"{pixels.image_size[0]} x {pixels.image_size[1]}, {pixels.resize}, "
            f"{pixels.interpolation}, mean {_numbers(pixels.mean)}, deviation "
            f"{_numbers(pixels.std)}",
        ),
        *([("extra", _extra(source.extra))] if source.extra else []),
        *(("dropped", f"{n}: {why}") for n, why in _group_reasons(source.dropped)),
        *(("note", note) for note in source.notes),
    ]


def _group_reasons(dropped: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return one pair (tensors, reason) for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in dropped.items():
        reasons.setdefault(why, []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", why)
        for why, names in reasons.items()
    ]


def _patches(config: ModelConfig) -> str:
    text = f"{config.grid.rows} x {config.grid.columns}"
    if isinstance(config, ViTConfig):
        text += (
            f", {config.num_prefix_tokens} tokens before them, positions "
            f"{config.position}, {config.num_prefix_positions} rows of other tokens"
        )
    return text


def _head(source: WeightsSource) -> str:
    count = source.config.num_classes
    if not count:
        return "none"
    first = ", ".join(source.classes[:3])
    return f"{count} classes" + (f" ({first}, ...)" if first else ", without names")


def _extra(extra: Mapping[str, Any]) -> str:
    """Return each key, with its value where that is one word or number."""
    return ", ".join(
        f"{key} {value}" if isinstance(value, str | int | float) else key
        for key, value in sorted(extra.items())
    )


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _problems(source: WeightsSource) -> list[str]:
    mismatch = find_mismatches(source)
    problems = [f"missing: {name}" for name in mismatch.missing]
    problems += [f"no place in the model for {name}" for name in mismatch.unexpected]
    problems += mismatch.mismatched + mismatch.quantized
    for name in source.file.names():
        try:
            source.file.read(name)
        except WeightsError as error:
            problems.append(str(error))
    return problems
