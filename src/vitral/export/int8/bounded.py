"""Search of the layers that must stay in float so that int8 keeps the accuracy.

The bound is on the mean score that is lost against float32 on the same images, one view
each: for a classifier the fraction of correct decisions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vitral.errors import ConfigError, GateError
from vitral.evaluation import Interval
from vitral.evaluation.compare import loss_interval
from vitral.export.int8.calibration_data import QuantizationData
from vitral.export.int8.decisions import Decisions
from vitral.export.int8.layers import find_int8_layers, restore_float
from vitral.export.int8.quantize import quantize
from vitral.export.int8.sensitivity import LayerGroup, Sensitivity, measure_sensitivity
from vitral.export.run_openvino import collect_logits, compile_model

logger = logging.getLogger(__name__)

SENSITIVITY_BATCHES = 2
"""Batches of 8 images."""
MOST_IN_FLOAT = 0.5
"""Largest fraction of the layers in float; beyond it bfloat16 is better."""


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """One step of the search; accuracies are in 0..1."""

    kept_float: tuple[str, ...]
    accuracy: float
    drop: float
    """Points of accuracy lost against float32; negative for a gain."""
    agreement: float
    """Fraction of the images with the same prediction as float32."""


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """Report of a quantization: calibration, accuracy, layers in float."""

    calibrated_on: int
    """Number of images of train."""
    checked_on: str
    n: int
    max_drop: float
    accuracy_float: float
    accuracy: float
    drop: float
    drop_interval: Interval
    """95 %, in points, from a paired bootstrap."""
    agreement: float
    layers: int
    """Number of layers that can be in int8."""
    kept_float: tuple[str, ...]
    """Names of the layers in float."""
    sensitivity: Sensitivity
    steps: tuple[SearchStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        value = asdict(self)
        for key in ("blocks", "kinds", "layers"):
            parts: tuple[LayerGroup, ...] = getattr(self.sensitivity, key)
            value[f"sensitive_{key}"] = [
                {"name": part.name, "change": part.change} for part in parts
            ]
        value["sensitivity"] = self.sensitivity.overall
        value["drop_interval"] = list(self.drop_interval)
        return value

    def lines(self) -> list[str]:
        """Return a summary in lines."""
        low, high = self.drop_interval
        floats = ", ".join(self.kept_float) or "none"
        return [
            f"int8: {self.layers - len(self.kept_float)} of {self.layers} layers, "
            f"calibrated on {self.calibrated_on} images of train; in float: {floats}",
            f"checked on {self.checked_on}",
            f"top-1 {100 * self.accuracy_float:.2f} % in float32, "
            f"{100 * self.accuracy:.2f} % in int8: {self.drop:+.2f} points lost "
            f"({low:+.2f} to {high:+.2f}), at most {self.max_drop:g} allowed; the same "
            f"answer on {100 * self.agreement:.1f} %",
            *self.sensitivity.lines(),
        ]


@dataclass(frozen=True, slots=True)
class Int8Model:
    """An openvino.Model with int8 layers, and its report."""

    model: Any
    report: Int8Report


def quantize_within(
    original: Any,
    sample: QuantizationData,
    decisions: Decisions,
    *,
    max_drop: float = 0.5,
) -> Int8Model:
    """Quantize a float openvino.Model, losing at most `max_drop` points of top-1."""
    if not 0 <= max_drop <= 100:
        raise ConfigError(
            "`max_drop` is the points of top-1 accuracy that int8 may lose, 0 to 100: "
            f"got {max_drop}."
        )
    calibration, check = sample.calibration, sample.check
    logger.info(f"int8: calibrating on {len(calibration.ids)} images of train")
    quantized = quantize(original, calibration.batches)
    float_logits = collect_logits(compile_model(original, "fp32"), check.batches)
    float_correct = decisions.score(float_logits, check)
    layers = find_int8_layers(quantized)
    names = {layer.op: layer.name for layer in layers}
    logger.info(f"int8: measuring how sensitive each of {len(layers)} layers is")
    sensitivity = measure_sensitivity(
        original, quantized, calibration.batches[:SENSITIVITY_BATCHES]
    )
    steps: dict[tuple[str, ...], SearchStep] = {}
    correct: dict[tuple[str, ...], np.ndarray] = {}

    def holds(parts: Sequence[LayerGroup]) -> bool:
        ops = _ops(parts)
        model = restore_float(quantized, original, ops) if ops else quantized
        logits = collect_logits(compile_model(model, "int8"), check.batches)
        correct[ops] = decisions.score(logits, check)
        drop = 100 * float(float_correct.mean() - correct[ops].mean())
        steps[ops] = SearchStep(
            kept_float=tuple(names[op] for op in ops),
            accuracy=float(correct[ops].mean()),
            drop=drop,
            agreement=decisions.agreement(logits, float_logits),
        )
        share = f"{len(ops)} of {len(layers)} layers in float"
        logger.info(f"int8: {share}: {drop:+.2f} points")
        return drop <= max_drop + 1e-9

    in_float = find_shortest_prefix(
        sensitivity.order(), holds, int(MOST_IN_FLOAT * len(layers))
    )
    if in_float is None:
        raise GateError(
            _refusal_message([*steps.values()], len(layers), max_drop, sample.note)
        )
    ops = _ops(in_float)
    final = steps[ops]
    report = Int8Report(
        calibrated_on=len(calibration.ids),
        checked_on=sample.note,
        n=len(check.ids),
        max_drop=max_drop,
        accuracy_float=float(float_correct.mean()),
        accuracy=final.accuracy,
        drop=final.drop,
        drop_interval=loss_interval(float_correct, correct[ops]),
        agreement=final.agreement,
        layers=len(layers),
        kept_float=final.kept_float,
        sensitivity=sensitivity,
        steps=tuple(steps.values()),
    )
    model = restore_float(quantized, original, ops) if ops else quantized
    return Int8Model(model, report)


def find_shortest_prefix(
    order: Sequence[LayerGroup],
    holds: Callable[[Sequence[LayerGroup]], bool],
    max_layers: int,
) -> Sequence[LayerGroup] | None:
    """Return the shortest prefix of `order` for which `holds`; None if none does.

    The prefix doubles until it holds, then a binary search shortens it: a dozen steps
    for a hundred layers. It has at most `max_layers` layers.
    """
    if holds(()):
        return ()
    longest = 0
    while longest < len(order) and len(_ops(order[: longest + 1])) <= max_layers:
        longest += 1
    failed, tried = 0, min(1, longest)
    while tried > failed and not holds(order[:tried]):
        failed, tried = tried, min(2 * tried, longest)
    if tried == failed:
        return None
    while tried - failed > 1:
        middle = (tried + failed) // 2
        if holds(order[:middle]):
            tried = middle
        else:
            failed = middle
    return order[:tried]


def _ops(parts: Sequence[LayerGroup]) -> tuple[str, ...]:
    return tuple(op for part in parts for op in part.ops)


def _refusal_message(
    steps: Sequence[SearchStep], layers: int, max_drop: float, images: str
) -> str:
    best = min(steps, key=lambda step: step.drop)
    return (
        f"int8 loses {steps[0].drop:.2f} points of top-1 on {images}, and still "
        f"{best.drop:.2f} with {len(best.kept_float)} of {layers} layers in float; at "
        f"most {max_drop:g} are allowed and nothing was written. Allow more with "
        "`max_drop`, or export with `bf16`."
    )
