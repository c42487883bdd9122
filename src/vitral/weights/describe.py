"""What a weights file is, whether it would load, and what is missing: in words."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import vitral.models
from vitral.errors import VitralError, WeightsError
from vitral.layers import Grid
from vitral.models import ModelConfig, ViTConfig
from vitral.models.meta_init import unfilled
from vitral.weights.checkpoint_facts import Source
from vitral.weights.convert import holders
from vitral.weights.detect import find, layout_of, open_weights
from vitral.weights.files import TensorFile
from vitral.weights.load import misfits

SHOWN = 40


class Fact(NamedTuple):
    """One line: what, and what is known of it."""

    name: str
    text: str


@dataclass(frozen=True)
class Explanation:
    """The lines, and why the file would not load."""

    facts: tuple[Fact, ...]
    problem: str
    """Empty if it would load."""

    def __str__(self) -> str:
        width = max(len(fact.name) for fact in self.facts)
        return "\n".join(f"{fact.name:{width}}  {fact.text}" for fact in self.facts)


def explain(
    path: str | Path,
    *,
    grid: tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Explanation:
    """Everything that can be said of a file without making a model of it.

    Every value is read once, so that one that is not finite is found.

    Raises:
        WeightsError: there is no file, or it is refused before anything is known.
    """
    known = None if grid is None else Grid(*grid)
    opened = open_weights(find(path), grid=known, num_heads=num_heads)
    facts = [Fact("file", _file(opened.file))]
    facts += [Fact("note", note) for note in opened.notes]
    try:
        layout = layout_of(opened)
        facts.append(Fact("layout", layout.title))
        source = layout.read(opened)
    except VitralError as error:
        return _ended(facts, str(error))
    facts += _model(source)
    problems = _problems(source)
    facts += [Fact("problem", text) for text in problems[:SHOWN]]
    if problems[SHOWN:]:
        facts.append(Fact("problem", f"and {len(problems) - SHOWN} more"))
    if problems:
        return _ended(facts, f"{len(problems)} problems, first: {problems[0]}")
    facts.append(Fact("fits", ", ".join(holders(source.config))))
    return _ended(facts, "")


def _ended(facts: list[Fact], problem: str) -> Explanation:
    verdict = f"no: {problem}" if problem else "yes"
    return Explanation((*facts, Fact("would load", verdict)), problem)


def _file(file: TensorFile) -> str:
    names = file.names()
    values = sum(math.prod(file.shape(name)) for name in names)
    kinds = Counter(str(file.dtype(name)).removeprefix("torch.") for name in names)
    size = file.path.stat().st_size / 2**20
    return (
        f"{file.path} ({file.format}, {size:,.1f} MiB, {len(names)} tensors, "
        f"{values:,} values, {', '.join(kinds)})"
    )


def _model(source: Source) -> list[Fact]:
    config, pixels = source.config, source.preprocess
    with unfilled():
        model = vitral.models.build(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    name = vitral.models.name_of(config) or vitral.models.family_of(config)
    size = f"{config.image_hw[0]} x {config.image_hw[1]}"
    facts = [
        Fact(
            "model",
            f"{name}, {count:,} parameters, {config.macs() / 1e9:.2f} GMACs at {size}",
        ),
        Fact("patches", _patches(config)),
        Fact("head", _head(source)),
        Fact(
            "pixels",
            f"{pixels.image_size[0]} x {pixels.image_size[1]}, {pixels.resize}, "
            f"{pixels.interpolation}, mean {_numbers(pixels.mean)}, deviation "
            f"{_numbers(pixels.std)}",
        ),
    ]
    facts += [Fact("dropped", f"{n}: {why}") for n, why in _few(source.dropped)]
    return facts + [Fact("note", note) for note in source.notes]


def _few(dropped: object) -> list[tuple[str, str]]:
    """One line for each reason, with the number of tensors that it is true of."""
    assert isinstance(dropped, dict)
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


def _head(source: Source) -> str:
    number = source.config.num_classes
    if not number:
        return "none"
    some = ", ".join(source.classes[:3])
    return f"{number} classes" + (f" ({some}, ...)" if some else ", without names")


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _problems(source: Source) -> list[str]:
    found = misfits(source)
    problems = [f"missing: {name}" for name in found.missing]
    problems += [f"no place in the model for {name}" for name in found.unknown]
    problems += found.misshapen
    for name in source.file.names():
        try:
            source.file.read(name)
        except WeightsError as error:
            problems.append(str(error))
    return problems
