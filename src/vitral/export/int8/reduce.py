"""Quantize a float graph to the int8 graph of an export, with its measurements."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic, write_json
from vitral.errors import ConfigError
from vitral.export.int8.bounded import Int8Report, quantize_within
from vitral.export.int8.calibration_data import draw_quantization_data
from vitral.export.int8.decisions import Decisions
from vitral.export.int8.layers import fold_constants
from vitral.export.model import ExportSubject
from vitral.export.precisions import PrecisionTable, measure_precisions

logger = logging.getLogger(__name__)

REPORT = "int8.json"
TABLE = "precisions.json"
TABLE_FOR_PEOPLE = "precisions.md"


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """An int8 graph with its report and the table of precisions."""

    graph: Any
    report: Int8Report
    table: PrecisionTable

    def write(self, folder: Path) -> None:
        """Write the report and the table into the model's folder."""
        write_json(folder / REPORT, self.report.to_dict())
        write_json(folder / TABLE, self.table.to_dict())
        write_atomic(folder / TABLE_FOR_PEOPLE, self.table.markdown().encode())

    def lines(self) -> list[str]:
        """Return a summary in lines."""
        return [*self.report.lines(), *self.table.markdown().splitlines()]


def quantize_graph(
    subject: ExportSubject,
    graph: Any,
    *,
    max_drop: float,
) -> QuantizedGraph:
    """Quantize `graph`, an openvino.Model that takes pre-processed images.

    Args:
        max_drop: points of top-1 accuracy that may be lost.

    Raises:
        ConfigError: the subject has no run, so no train split.
        GateError: int8 loses more.
        DataError: the run's data cannot be opened.
        MissingExtraError: NNCF is not installed.
    """
    if subject.run is None or not (subject.run.path / "config.json").is_file():
        raise ConfigError(
            "int8 is calibrated on the train split of a run, and "
            f"{subject.display_name} has "
            "none: export a run, or leave `int8` out."
        )
    decisions = Decisions(subject.task, subject.labels)
    sample = draw_quantization_data(subject.run)
    plain = fold_constants(graph)
    quantized = quantize_within(plain, sample, decisions, max_drop=max_drop)
    logger.info("int8: measuring the precisions side by side")
    table = measure_precisions(
        {"fp32": plain, "bf16": plain, "int8": quantized.model},
        sample.check,
        sample.note,
        decisions=decisions,
    )
    return QuantizedGraph(quantized.model, quantized.report, table)
