"""Read an exported model: an ONNX file, or the folder of an OpenVINO model.

An exported file holds its settings, pre-processing, classes, temperature, and the
measurements of its acceptance.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import vitral.models
from vitral import config_io
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.json_file import parse_json
from vitral.models import ModelConfig
from vitral.version import __version__
from vitral.weights.exported.model import ExportedGraph, ExportedModel
from vitral.weights.exported.onnx import OnnxGraph
from vitral.weights.exported.openvino import OpenVinoGraph

Precision = Literal["fp32", "bf16", "int8"]
KEY = "vitral"
"""Metadata key of an exported file; its value is JSON."""
XML = "model.xml"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata inside an exported file."""

    config: ModelConfig
    """Settings of the model, with its family."""
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    """Names of the logits; empty when they have none."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Other metadata as plain data, which a reader of the logits needs: temperature,
    views. All keys of the exporter are stored."""
    with_preprocess: bool = False
    """Takes uint8 pixels [batch, height, width, 3] of any size."""
    precision: Precision = "fp32"
    """Precision of the computation."""
    merge: int = 0
    """Tokens merged in each block; 0 for none."""
    image_size: tuple[int, int] | None = None
    """(height, width) of the only images it takes; None for any that fit the model."""
    gate: dict[str, Any] = field(default_factory=dict)
    """Measurements of the accepted file."""
    version: str = __version__
    """Version of vitral that wrote it."""

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        values = {
            **asdict(self),
            "family": vitral.models.get_family_name(self.config),
            "config": config_io.to_dict(self.config),
            "preprocess": self.preprocess.to_dict(),
        }
        return json.dumps(values, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: Path) -> "Metadata":
        """Read the text of `to_json`."""
        try:
            values = parse_json(text)
            family = vitral.models.families()[values.pop("family")]
            fields = family.rename_fields(values.pop("config"))
            config = config_io.from_dict(family.config, fields, where)
            size = values.pop("image_size")
            return cls(
                config=config,
                preprocess=Preprocess.from_dict(values.pop("preprocess")),
                classes=tuple(values.pop("classes")),
                image_size=None if size is None else (size[0], size[1]),
                **values,
            )
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            raise WeightsError(
                f"{where} has metadata that this vitral cannot read ({error}): it was "
                "edited, or comes from another version. Export the model again."
            ) from error


class ExportedFile(NamedTuple):
    """An exported file with its model, ready to run."""

    model: ExportedModel
    preprocess: Preprocess
    classes: tuple[str, ...]
    extra: dict[str, Any]
    metadata: Metadata


def is_exported(path: str | Path) -> bool:
    """Return whether a path is an exported model: x.onnx, model.xml, or its folder."""
    path = Path(path)
    if path.is_dir():
        return (path / XML).is_file()
    return path.is_file() and path.suffix in (".onnx", ".xml")


def read_exported(path: str | Path, *, threads: int | None = None) -> ExportedFile:
    """Load an exported model for the CPU.

    Args:
        threads: of the runtime; None for as many as torch has.

    Raises:
        WeightsError: nothing is there, it is damaged, or vitral did not export it.
        MissingExtraError: its runtime is not installed.
    """
    source = Path(path)
    if not is_exported(source):
        raise WeightsError(
            f"{source} is no exported model: give an .onnx file, or a folder that has "
            f"{XML}, both as `vitral export` writes them."
        )
    if source.is_file() and source.suffix == ".onnx":
        graph: ExportedGraph = OnnxGraph(source, threads)
    else:
        graph = OpenVinoGraph(source / XML if source.is_dir() else source, threads)
    text = graph.text(KEY)
    if not text:
        raise WeightsError(
            f"{source} was not exported by vitral: it does not say which classes and "
            "which pre-processing its model has. Export it from its run with `vitral "
            "export`, or use it with its own program."
        )
    metadata = Metadata.from_json(text, source)
    graph.prepare(metadata.precision)
    model = ExportedModel(
        metadata.config,
        graph,
        precision=metadata.precision,
        image_size=metadata.image_size,
        with_preprocess=metadata.with_preprocess,
    )
    return ExportedFile(
        model, metadata.preprocess, metadata.classes, metadata.extra, metadata
    )
