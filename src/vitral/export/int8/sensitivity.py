"""Which layers suffer from int8: the list, by block, by kind and by layer.

Each part is quantised alone, all else in float, and the change of the logits is
measured: so one bad layer cannot hide another. The rest runs in float32, or bfloat16's
rounding would hide the good ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vitral.export.int8.layers import Int8Layer, find_int8_layers, restore_float
from vitral.export.run_openvino import Images, Logits, collect_logits, compile_model

MAX_DETAILED_BLOCKS = 3
"""The worst; the layers of the others are not measured one by one, which would take
minutes and tell little."""


class LayerGroup(NamedTuple):
    """Some layers, and what happens when only they are in int8."""

    name: str
    change: float
    """Root mean square of the change of the logits, in their standard deviations."""
    ops: tuple[str, ...]


class Sensitivity(NamedTuple):
    """The parts of a model, the most sensitive first in each list."""

    overall: float
    """The change when all is in int8."""
    blocks: tuple[LayerGroup, ...]
    kinds: tuple[LayerGroup, ...]
    layers: tuple[LayerGroup, ...]
    """Of the worst blocks only."""

    def order(self) -> list[LayerGroup]:
        """What to take back to float, one after the other: the layers of the worst
        blocks, then the other blocks whole; every layer once."""
        fine = {op for part in self.layers for op in part.ops}
        rest = [part for part in self.blocks if not fine.intersection(part.ops)]
        return [*self.layers, *rest]

    def lines(self) -> list[str]:
        """For a person: the first few of each list."""
        lines = [f"change of the logits, all layers in int8: {self.overall:.4f}"]
        for title, parts in (
            ("block", self.blocks),
            ("kind", self.kinds),
            ("layer", self.layers),
        ):
            lines += [
                f"  {title} {part.name:24} {part.change:.4f}" for part in parts[:5]
            ]
        return lines


def measure_sensitivity(
    original: Any, quantised: Any, batches: Sequence[Images]
) -> Sensitivity:
    """Measure the parts of `quantised`, which NNCF made from `original`.

    Args:
        batches: a few pre-processed images; 16 order the blocks of a ViT-S.
    """
    every = find_int8_layers(quantised)
    names = frozenset(layer.op for layer in every)
    right = collect_logits(compile_model(original, "fp32"), batches)

    def changed(ops: Sequence[str]) -> float:
        model = restore_float(quantised, original, names.difference(ops))
        return relative_change(
            collect_logits(compile_model(model, "fp32"), batches), right
        )

    blocks = _rank_groups(every, lambda layer: layer.block, changed)
    kinds = _rank_groups(every, lambda layer: layer.kind, changed)
    worst = {part.name for part in blocks[:MAX_DETAILED_BLOCKS]}
    inside = [layer for layer in every if layer.block in worst]
    layers = _rank_groups(inside, lambda layer: layer.op, changed)
    title = {layer.op: layer.name for layer in every}
    return Sensitivity(
        overall=changed(sorted(names)),
        blocks=blocks,
        kinds=kinds,
        layers=tuple(part._replace(name=title[part.name]) for part in layers),
    )


def relative_change(
    logits: Float[np.ndarray, "examples classes"],
    right: Float[np.ndarray, "examples classes"],
) -> float:
    """How far `logits` are from `right`, in standard deviations of the latter."""
    scale = float(right.std()) or 1.0
    return float(np.sqrt(np.mean((logits.astype(np.float64) - right) ** 2))) / scale


def _rank_groups(
    layers: Sequence[Int8Layer],
    key: Callable[[Int8Layer], str],
    measure_change: Callable[[Sequence[str]], float],
) -> tuple[LayerGroup, ...]:
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer.op)
    parts = [
        LayerGroup(name, measure_change(ops), tuple(ops))
        for name, ops in groups.items()
    ]
    return tuple(sorted(parts, key=lambda part: -part.change))


__all__ = [
    "LayerGroup",
    "Logits",
    "Sensitivity",
    "measure_sensitivity",
    "relative_change",
]
