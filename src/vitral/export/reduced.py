"""A float graph to the int8 graph that an export writes, with what was measured.

The graph may start at uint8 pixels: the part before the pre-processed image is set
aside, since its arithmetic is exact, and put back before the int8 part.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vitral.errors import ConfigError
from vitral.export.bounded import Int8Report, int8_within
from vitral.export.layers import folded
from vitral.export.precisions import Precisions, precisions
from vitral.export.sample import sample_of
from vitral.export.subject import Subject
from vitral.files import write_atomic, write_json
from vitral.weights.artefact_onnx import IMAGE, PIXELS
from vitral.weights.runtimes import openvino

REPORT = "int8.json"
TABLE = "precisions.json"
TABLE_FOR_PEOPLE = "precisions.md"


class Reduced(NamedTuple):
    """An int8 graph with its report and the table of precisions."""

    graph: Any
    report: Int8Report
    table: Precisions

    def write(self, folder: Path) -> None:
        """The report and the table, beside the model that they are of."""
        write_json(folder / REPORT, self.report.to_dict())
        write_json(folder / TABLE, self.table.to_dict())
        write_atomic(folder / TABLE_FOR_PEOPLE, self.table.markdown().encode())

    def lines(self) -> list[str]:
        """For a person."""
        return [*self.report.lines(), *self.table.markdown().splitlines()]


def reduced(
    subject: Subject,
    graph: Any,
    *,
    max_drop: float,
    say: Callable[[str], None] = lambda line: None,
) -> Reduced:
    """The int8 form of `graph`, an openvino.Model of the subject.

    Args:
        max_drop: points of top-1 accuracy that may be lost.

    Raises:
        ConfigError: the subject is no run, so that there is no train split.
        GateError: more would be lost.
        DataError: the run's data cannot be opened.
        MissingExtraError: NNCF is not installed.
    """
    if subject.run is None or not (subject.run.path / "config.json").is_file():
        raise ConfigError(
            f"int8 is calibrated on the train split of a run, and {subject.called} has "
            "none: export a run, or leave `--int8` out."
        )
    multi_label = bool(subject.extra.get("multi_label", False))
    sample = sample_of(subject.run)
    whole = folded(graph)
    plain = _from_image(whole)
    found = int8_within(
        plain, sample, max_drop=max_drop, multi_label=multi_label, say=say
    )
    say("int8: measuring the precisions side by side")
    table = precisions(
        {"fp32": plain, "bf16": plain, "int8": found.model},
        sample.check,
        sample.note,
        multi_label=multi_label,
    )
    return Reduced(_with_pixels(found.model, whole), found.report, table)


def _from_image(whole: Any) -> Any:
    """The same graph from pre-processed images on."""
    if PIXELS not in whole.inputs[0].get_names():
        return whole
    module, model = openvino(), whole.clone()
    source = _image(model)
    start = module.opset13.parameter(
        source.get_partial_shape(), source.get_element_type(), name=IMAGE
    )
    for target in source.get_target_inputs():
        target.replace_source_output(start.output(0))
    return module.Model(model.results, [start], "from images")


def _with_pixels(model: Any, whole: Any) -> Any:
    """`model` behind the part of `whole` that makes images of pixels, if it has one."""
    if PIXELS not in whole.inputs[0].get_names():
        return model
    before, after = whole.clone(), model.clone()
    image = _image(before)
    for target in after.parameters[0].output(0).get_target_inputs():
        target.replace_source_output(image)
    return openvino().Model(after.results, before.parameters, "from pixels")


def _image(model: Any) -> Any:
    """The output that carries the pre-processed image."""
    for op in model.get_ops():
        for output in op.outputs():
            if IMAGE in output.get_names():
                return output
    raise AssertionError(f"a graph from {PIXELS} has a tensor {IMAGE}")
