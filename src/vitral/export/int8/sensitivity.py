"""Sensitivity of a model's logits to int8, by block, by kind and by layer.

Each group is quantized alone, so that one bad layer cannot hide another. The rest runs
in float32, since bfloat16's rounding would hide the good ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from vitral.export.int8.layers import Int8Layer, find_int8_layers, restore_float
from vitral.export.run_openvino import Images, Logits, collect_logits, compile_model

MAX_DETAILED_BLOCKS = 3
"""Worst blocks whose layers are measured one by one; all would take minutes."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers, and the change of the logits if only they are in int8."""

    name: str
    change: float
    """Root mean square of the change of the logits, in their standard deviations."""
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Layer groups of a model, the most sensitive first in each list."""

    overall: float
    """Change of the logits with all layers in int8."""
    blocks: tuple[LayerGroup, ...]
    kinds: tuple[LayerGroup, ...]
    layers: tuple[LayerGroup, ...]
    """Layers of the worst blocks only."""

    def order(self) -> list[LayerGroup]:
        """Return the order of restoring float: the layers of the worst blocks, then the
        other blocks; every layer once."""
        detailed = {op for part in self.layers for op in part.ops}
        rest = [part for part in self.blocks if not detailed.intersection(part.ops)]
        return [*self.layers, *rest]

    def lines(self) -> list[str]:
        """Return a summary in lines: the first five of each list."""
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
    original: Any, quantized: Any, batches: Sequence[Images]
) -> Sensitivity:
    """Measure the layer groups of `quantized`, which NNCF made from `original`.

    A few images suffice: 16 order the blocks of a ViT-S.
    """
    all_layers = find_int8_layers(quantized)
    names = frozenset(layer.op for layer in all_layers)
    expected = collect_logits(compile_model(original, "fp32"), batches)

    def measure_change(ops: Sequence[str]) -> float:
        model = restore_float(quantized, original, names.difference(ops))
        return relative_change(
            collect_logits(compile_model(model, "fp32"), batches), expected
        )

    blocks = _rank_groups(all_layers, lambda layer: layer.block, measure_change)
    kinds = _rank_groups(all_layers, lambda layer: layer.kind, measure_change)
    worst = {part.name for part in blocks[:MAX_DETAILED_BLOCKS]}
    detailed = [layer for layer in all_layers if layer.block in worst]
    layers = _rank_groups(detailed, lambda layer: layer.op, measure_change)
    names_by_op = {layer.op: layer.name for layer in all_layers}
    return Sensitivity(
        overall=measure_change(sorted(names)),
        blocks=blocks,
        kinds=kinds,
        layers=tuple(replace(part, name=names_by_op[part.name]) for part in layers),
    )


def relative_change(
    logits: Float[np.ndarray, "examples classes"],
    expected: Float[np.ndarray, "examples classes"],
) -> float:
    """Return the RMS difference in standard deviations of `expected`."""
    scale = float(expected.std()) or 1.0
    return float(np.sqrt(np.mean((logits.astype(np.float64) - expected) ** 2))) / scale


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
