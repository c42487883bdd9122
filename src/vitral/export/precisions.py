"""Table of precisions: size, latency, accuracy and agreement."""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitral.errors import ConfigError
from vitral.evaluation import Interval
from vitral.evaluation.intervals import format_percent, mean_interval
from vitral.export.int8 import Decisions, LabeledBatches
from vitral.export.run_openvino import (
    Images,
    PredictFunction,
    collect_logits,
    compile_model,
)
from vitral.weights.exported import Precision, import_openvino

ROUNDS = 15
BATCH_SIZES = (1, 8)


@dataclass(frozen=True, kw_only=True)
class PrecisionRow:
    """One precision of a model."""

    precision: Precision
    megabytes: float
    """Size on disk in 1e6 bytes."""
    latency: dict[int, float]
    """Milliseconds per batch by batch size, the median of interleaved rounds."""
    accuracy: float
    accuracy_interval: Interval
    agreement: float
    """Fraction of images with the same prediction as float32."""


@dataclass(frozen=True, kw_only=True)
class PrecisionTable:
    """Precisions measured on the same images, interleaved."""

    images: str
    n: int
    rows: tuple[PrecisionRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def markdown(self) -> str:
        """Return the table as in docs/int8.md."""
        sizes = list(self.rows[0].latency)
        head = ["precision", "MB", *(f"ms at batch {size}" for size in sizes)]
        head += ["top-1 %", "95 % interval", "same answer %"]
        lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
        for row in self.rows:
            cells = [row.precision, f"{row.megabytes:.1f}"]
            cells += [f"{row.latency[size]:.1f}" for size in sizes]
            cells += [f"{100 * row.accuracy:.2f}"]
            cells += [format_percent(row.accuracy_interval)]
            cells += [f"{100 * row.agreement:.1f}"]
            lines.append(_line(cells))
        return "\n".join(lines) + "\n"


def measure_precisions(
    models: Mapping[Precision, Any],
    images: LabeledBatches,
    note: str,
    *,
    decisions: Decisions,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = ROUNDS,
) -> PrecisionTable:
    """Measure openvino.Models of one model in several precisions, fp32 among them.

    `note` describes the images.
    """
    if "fp32" not in models:
        raise ConfigError(
            "the table compares with fp32, which is not among the models."
        )
    compiled = {name: compile_model(model, name) for name, model in models.items()}
    pixels = np.concatenate(images.batches)[: max(batch_sizes)]
    latency = {
        size: time_interleaved(
            compiled, np.resize(pixels, (size, *pixels.shape[1:])), rounds
        )
        for size in batch_sizes
    }
    logits = {
        name: collect_logits(predict, images.batches)
        for name, predict in compiled.items()
    }
    rows = []
    for name, model in models.items():
        right = decisions.score(logits[name], images)
        rows.append(
            PrecisionRow(
                precision=name,
                megabytes=measure_megabytes(model, name),
                latency={size: 1000 * latency[size][name] for size in batch_sizes},
                accuracy=float(right.mean()),
                accuracy_interval=mean_interval(right),
                agreement=decisions.agreement(logits[name], logits["fp32"]),
            )
        )
    return PrecisionTable(images=note, n=len(images.ids), rows=tuple(rows))


def time_interleaved(
    compiled: Mapping[Any, PredictFunction], images: Images, rounds: int
) -> dict[Any, float]:
    """Return median seconds, interleaved so that other load slows all alike."""
    for predict in compiled.values():
        predict(images)
    times: dict[Any, list[float]] = {name: [] for name in compiled}
    for _ in range(rounds):
        for name, predict in compiled.items():
            started = time.perf_counter()
            predict(images)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def measure_megabytes(model: Any, precision: Precision) -> float:
    """Return the files' size in 1e6 bytes; below fp32, weights take two bytes."""
    with tempfile.TemporaryDirectory(prefix="vitral-") as folder:
        file = Path(folder) / "model.xml"
        import_openvino().save_model(model, file, compress_to_fp16=precision != "fp32")
        return sum(part.stat().st_size for part in Path(folder).iterdir()) / 1e6


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
