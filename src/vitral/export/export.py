"""Export: convert, write under a temporary name, measure that file, then rename it.

Only the numbers of its gate are written into the file afterwards. After any failure OUT
does not exist.
"""

import contextlib
import copy
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vitral.atomic_io import TEMPORARY_SUFFIX, sync_folder
from vitral.data import Dataset, Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.export.gate import MAX_IMAGES, GateReport, gate
from vitral.export.int8 import QuantizedGraph, quantize_graph
from vitral.export.model import ExportSubject, load_subject, open_examples
from vitral.export.pixels import build_preprocess_graph, prepend_preprocess
from vitral.export.to_onnx import to_onnx
from vitral.export.to_openvino import (
    MAX_ONNX_BYTES,
    chain_models,
    save_onnx,
    to_openvino,
)
from vitral.models import MergeSchedule, VisionModel, set_merge_if_given
from vitral.weights import Metadata, read_exported
from vitral.weights.exported import KEY, XML, Precision, runtimes
from vitral.workflows.run import Run

logger = logging.getLogger(__name__)

Write = Callable[[Path, Metadata], None]
"""Writes the file with its metadata at a path."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Inputs and merging of the graph, and the images of its comparison."""

    data: str = ""
    """Images to compare on; empty for the run's own."""
    images: int = MAX_IMAGES
    """Largest number of these images."""
    preprocess: Preprocess | None = None
    """Pre-processing of a model without a run."""
    with_preprocess: bool = False
    """The graph takes uint8 pixels of any size."""
    static: bool = False
    """The graph takes images of the model's own size only."""
    merge: int | None = None
    """Tokens merged in each block, 0 for none; needs fixed sizes. None: as the model
    was trained."""
    merge_schedule: MergeSchedule | None = None
    """Their spread over the blocks; `every_fourth` is faster in a graph. None:
    `constant`."""


def onnx(
    model: Run | VisionModel | str | Path,
    path: str | Path,
    options: ExportOptions = ExportOptions(),
) -> GateReport:
    """Write an ONNX file whose logits equal the model's on real images.

    Args:
        model: a run or its path, weights of any layout, or a model.
        path: the .onnx file to write.

    Raises:
        GateError: the file's logits differ; nothing is left at `path`.
        ConfigError: `path` is in use, or a setting does not fit the model.
        WeightsError: there are no weights, or the file cannot be written.
        MissingExtraError: the extra `export` is not installed.
    """
    job = _prepare(model, _require_free_path(path, ".onnx"), options)
    proto = to_onnx(job.subject.model, image_size=job.metadata.image_size)
    if options.with_preprocess:
        proto = prepend_preprocess(proto, job.subject.preprocess)
    if proto.ByteSize() > MAX_ONNX_BYTES:
        raise ConfigError(
            f"The model has {proto.ByteSize() / 1e9:.1f} GB of weights, and an ONNX "
            "file ends at 2 GB: export it with `--to openvino`."
        )

    def write(file: Path, metadata: Metadata) -> None:
        del proto.metadata_props[:]
        entry = proto.metadata_props.add()
        entry.key, entry.value = KEY, metadata.to_json()
        save_onnx(proto, file)

    return _write_measured(job, write)


def openvino(
    model: Run | VisionModel | str | Path,
    path: str | Path,
    options: ExportOptions = ExportOptions(),
    *,
    precision: Precision = "fp32",
    int8: bool = False,
    max_drop: float = 0.5,
) -> GateReport:
    """Write a folder with model.xml and model.bin for OpenVINO; see `onnx`.

    Args:
        precision: of the computation. float32 must give equal logits; bfloat16 and int8
            have a bound on accuracy.
        int8: the same as `precision="int8"`: calibrated on the run's train split, with
            as few layers in float as the bound needs, and a report in the folder.
        max_drop: that bound, in points of top-1.

    Raises:
        GateError, ConfigError, WeightsError, MissingExtraError: as `onnx`.
    """
    job = _prepare(model, _require_free_path(path, ""), options)
    subject = job.subject
    if int8:
        precision = "int8"
    graph = to_openvino(to_onnx(subject.model, image_size=job.metadata.image_size))
    quantized: QuantizedGraph | None = None
    if precision == "int8":
        quantized = quantize_graph(subject, graph, max_drop=max_drop)
        graph = quantized.graph
    if options.with_preprocess:
        graph = chain_models(
            to_openvino(build_preprocess_graph(subject.preprocess)), graph
        )

    def write(folder: Path, metadata: Metadata) -> None:
        folder.mkdir(exist_ok=True)
        graph.set_rt_info(metadata.to_json(), [KEY])
        # Below float32, two bytes per weight suffice.
        runtimes.import_openvino().save_model(
            graph, folder / XML, compress_to_fp16=precision != "fp32"
        )
        if quantized is not None:
            quantized.write(folder)

    job = replace(job, metadata=replace(job.metadata, precision=precision))
    report = _write_measured(job, write, max_drop)
    if quantized is not None:
        report = replace(report, int8=tuple(quantized.lines()))
    return report


@dataclass(frozen=True, kw_only=True)
class _ExportJob:
    subject: ExportSubject
    metadata: Metadata
    out: Path
    dataset: Dataset
    """Images to compare on."""
    split: str


def _prepare(
    model: Run | VisionModel | str | Path, out: Path, options: ExportOptions
) -> _ExportJob:
    """Load the model to trace, and open the images to compare on."""
    subject = load_subject(model, options.preprocess)
    if options.merge is not None:
        # The caller's model must not change.
        subject = replace(subject, model=copy.deepcopy(subject.model))
    set_merge_if_given(subject.model, options.merge, options.merge_schedule)
    rate = int(getattr(subject.model.config, "merge_rate", 0))
    fixed = options.static or options.with_preprocess or rate > 0
    metadata = Metadata(
        config=subject.model.config,
        preprocess=subject.preprocess,
        classes=subject.classes,
        extra=subject.extra,
        with_preprocess=options.with_preprocess,
        merge=rate,
        image_size=subject.preprocess.image_size if fixed else None,
    )
    dataset, split = open_examples(subject, options.data, options.images)
    return _ExportJob(
        subject=subject, metadata=metadata, out=out, dataset=dataset, split=split
    )


def _write_measured(job: _ExportJob, write: Write, max_drop: float = 0.0) -> GateReport:
    """Write a temporary file, measure it and rename it."""
    out = job.out
    with _temporary_path(out) as file:
        try:
            write(file, job.metadata)
            report = gate(
                job.subject,
                read_exported(file),
                job.dataset,
                job.split,
                path=str(out),
                max_drop=max_drop,
            )
            report = replace(report, megabytes=_total_bytes(file) / 1e6)
            write(file, replace(job.metadata, gate=report.to_dict()))
            _flush(file)
            _require_free_path(out, "")
            file.replace(out)
            sync_folder(out.parent)
        except OSError as error:
            raise WeightsError(
                f"{out} cannot be written: {error}. Free some space or make the folder "
                "writable; nothing was left there."
            ) from error
    return report


def _require_free_path(path: str | Path, suffix: str) -> Path:
    """Return the path, if nothing is there and its folder exists."""
    out = Path(path)
    if suffix and out.suffix != suffix:
        raise ConfigError(f"{out} must end in `{suffix}`: add it to the name.")
    if out.is_symlink() or out.exists():
        raise ConfigError(
            f"{out} is already there, and an export replaces nothing: remove it, or "
            "choose another name."
        )
    if not out.parent.is_dir():
        raise ConfigError(
            f"The folder {out.parent} of {out.name} does not exist: make it first."
        )
    return out


@contextlib.contextmanager
def _temporary_path(out: Path) -> Iterator[Path]:
    """Yield a path in the folder of `out`, and remove what is left there."""
    name = f".{out.stem}.{os.getpid()}{TEMPORARY_SUFFIX}{out.suffix}"
    temporary = out.with_name(name)
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _total_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _flush(path: Path) -> None:
    for file in _files(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if path.is_dir():
        sync_folder(path)
