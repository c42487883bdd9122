"""Gate: compare an exported file with its model on real images, or refuse it.

In float32 the logits must agree to 1e-4, relative to the largest logit if above 1.
Lower precisions have a bound on accuracy instead.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitral.data import Dataset, Preprocess, split_loader
from vitral.data.images import as_rgb
from vitral.errors import DataError, GateError
from vitral.export.model import ExportSubject
from vitral.models import VisionModel
from vitral.weights import ExportedFile, ExportedModel
from vitral.workflows.inference import InferenceSpec, predict_outputs

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit if above 1."""
ROUNDED_TOLERANCE = 2e-2
"""The same from uint8 pixels with antialias: Pillow rounds to 8 bits in between, so a
pixel that rounds the other way is one step of 255 away."""
MAX_IMAGES = 1000
"""Largest number of images of the split."""
IMAGES_PER_SIZE = 3
"""Images compared at each of SIZE_OFFSETS; four times as many from pixels."""
EXCLUDED_FIELDS = ("path", "int8")
"""Not written into the file: its path may change; int8.json has the other."""
SIZE_OFFSETS = ((0, 0), (1, 0), (0, 2), (-1, 1), (2, -1))
"""Rows and columns of patches added to the model's own, for the five sizes."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """Comparison of an exported file with its model."""

    path: str
    backend: str
    precision: str
    images: int
    """Number of images compared."""
    split: str
    """Split of these images."""
    difference: float
    """Largest absolute difference of a logit to the model's."""
    scale: float
    """Largest absolute logit of the model."""
    tolerance: float
    """Bound on the difference; infinite if the bound is on accuracy."""
    agreement: float
    """Fraction of the images with the same prediction."""
    accuracy_before: float | None
    """Mean score of the model's decisions on these images, 1 at best; None if it does
    not know their labels."""
    accuracy: float | None
    """The same of the exported file."""
    sizes: tuple[tuple[int, int, float], ...] = ()
    """Height, width and difference of other sizes compared; empty for a fixed size."""
    pixels_difference: float | None = None
    """Difference from uint8 pixels; None without pre-processing in the graph."""
    pixels_tolerance: float | None = None
    """Bound on that difference."""
    megabytes: float = 0.0
    int8: tuple[str, ...] = ()
    """Lines of the int8 report, from bounded.py and precisions.py."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        values = {
            key: value
            for key, value in asdict(self).items()
            if key not in EXCLUDED_FIELDS
        }
        values["tolerance"] = _finite_or_none(self.tolerance)
        values["sizes"] = [list(size) for size in self.sizes]
        return values

    def lines(self) -> list[str]:
        """Return a summary in lines."""
        lines = [
            f"gate: {self.images} images of {self.split}, largest difference of a "
            f"logit {self.difference:.1e} ({_format_tolerance(self.tolerance)}; the "
            "largest "
            f"logit is {self.scale:.3g}), the same answer on "
            f"{100 * self.agreement:.2f} %"
        ]
        if self.accuracy is not None and self.accuracy_before is not None:
            lines.append(
                f"accuracy: {100 * self.accuracy_before:.2f} % before, "
                f"{100 * self.accuracy:.2f} % as exported"
            )
        if self.sizes:
            sizes = ", ".join(f"{h} x {w} {d:.1e}" for h, w, d in self.sizes)
            lines.append(f"other sizes: {sizes}")
        if self.pixels_difference is not None:
            allowed = _format_tolerance(self.pixels_tolerance or float("inf"))
            lines.append(f"from uint8 pixels: {self.pixels_difference:.1e} ({allowed})")
        return [*lines, *self.int8]


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """Outputs of model and file on the same images, [images, ...]."""

    before: np.ndarray
    after: np.ndarray
    score_before: float | None
    """Mean score of the model's decisions; None if it does not know the labels."""
    score_after: float | None


def gate(
    subject: ExportSubject,
    artefact: ExportedFile,
    dataset: Dataset,
    split: str,
    *,
    path: str,
    max_drop: float,
) -> GateReport:
    """Compare `artefact` with the model on `dataset`, and refuse it if they differ.

    A file in bfloat16 or int8 may lose `max_drop` points of accuracy.
    """
    comparison = _compare_outputs(subject, artefact.model, dataset)
    scale = float(np.abs(comparison.before).max())
    exact = artefact.metadata.precision == "fp32"
    tolerance = TOLERANCE * max(1.0, scale) if exact else float("inf")
    pixels, allowed = None, None
    if artefact.metadata.with_preprocess:
        pixels = _measure_pixels(subject, artefact.model, dataset)
        if exact:
            relative = ROUNDED_TOLERANCE if subject.preprocess.antialias else TOLERANCE
            allowed = relative * max(1.0, scale)
    sizes: tuple[tuple[int, int, float], ...] = ()
    if artefact.metadata.image_size is None:
        sizes = tuple(_measure_sizes(subject, artefact.model, dataset))
    report = GateReport(
        path=path,
        backend=artefact.model.backend,
        precision=artefact.metadata.precision,
        images=len(comparison.before),
        split=split,
        difference=_difference(comparison.before, comparison.after),
        scale=scale,
        tolerance=tolerance,
        agreement=_agreement(subject, comparison),
        accuracy_before=comparison.score_before,
        accuracy=comparison.score_after,
        sizes=sizes,
        pixels_difference=pixels,
        pixels_tolerance=allowed,
    )
    for reason in _refusal_reasons(subject, report, comparison, max_drop):
        raise GateError(
            f"{path} was not written: {reason}. The file would not be the model that "
            "was measured; report this with the model's settings, or export to the "
            "other target."
        )
    return report


def _refusal_reasons(
    subject: ExportSubject,
    report: GateReport,
    comparison: OutputComparison,
    max_drop: float,
) -> Iterator[str]:
    if not np.isfinite(comparison.after).all():
        yield "it answers with numbers that are not finite"
    over = [("", report.difference, report.tolerance)]
    over += [
        (f" at {height} x {width}", difference, report.tolerance)
        for height, width, difference in report.sizes
    ]
    if report.pixels_difference is not None and report.pixels_tolerance is not None:
        over.append(
            (" from uint8 pixels", report.pixels_difference, report.pixels_tolerance)
        )
    for where, difference, allowed in over:
        # Not `>`: NaN must fail.
        if not difference <= allowed:
            yield (
                f"its logits{where} differ by {difference:.2e}, and {allowed:.2e} is "
                "allowed"
            )
    if np.isfinite(report.tolerance):
        changed = subject.task.count_changed(
            comparison.before, comparison.after, report.tolerance
        )
        if changed:
            yield f"it answers {changed} images otherwise"
    if report.accuracy is not None and report.accuracy_before is not None:
        drop = 100 * (report.accuracy_before - report.accuracy)
        if drop > max_drop:
            yield (
                f"it loses {drop:.2f} points of {subject.task.score_name}, and "
                f"{max_drop:g} are allowed"
            )


def _compare_outputs(
    subject: ExportSubject, exported: ExportedModel, dataset: Dataset
) -> OutputComparison:
    preprocess = subject.preprocess.with_single_view()
    size = preprocess.batch_size(8)
    aligned = _align(subject, dataset)
    loader = split_loader(aligned or dataset, "", preprocess, batch_size=size)
    outputs: list[tuple[np.ndarray, np.ndarray]] = []
    scores: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in loader.epoch(0):
        both = [_outputs(m, batch.image) for m in (subject.model, exported)]
        outputs.append((both[0], both[1]))
        if aligned is not None:
            score = partial(
                subject.task.score, target=batch.target, labels=subject.labels
            )
            scores.append((score(both[0]), score(both[1])))
    if not outputs:
        raise GateError(
            f"None of the images in {dataset.root} can be read, so that nothing can be "
            "compared: give others with `data=DATA`."
        )
    before, after = (np.concatenate(part) for part in zip(*outputs, strict=True))
    if aligned is None:
        return OutputComparison(before, after, None, None)
    means = [float(np.concatenate(part).mean()) for part in zip(*scores, strict=True)]
    return OutputComparison(before, after, *means)


def _outputs(model: VisionModel, image: Tensor) -> np.ndarray:
    return predict_outputs(model, image, InferenceSpec()).numpy()


def _align(subject: ExportSubject, dataset: Dataset) -> Dataset | None:
    """Return the data with the model's labels as targets; None if they differ."""
    if not dataset.classes:
        return dataset
    try:
        return subject.task.align(dataset, subject.labels)
    except DataError:
        return None


def _agreement(subject: ExportSubject, comparison: OutputComparison) -> float:
    same = subject.task.agreement(comparison.before, comparison.after, subject.labels)
    return float(same.reshape(len(same), -1).all(axis=1).mean())


def _measure_sizes(
    subject: ExportSubject, exported: ExportedModel, dataset: Dataset
) -> Iterator[tuple[int, int, float]]:
    """Compare at five sizes, with rectangles, on the first images of the data."""
    config = subject.model.config
    step = getattr(config, "patch_hw", (32, 32))
    grid = [max(1, side // by) for side, by in zip(config.image_hw, step, strict=True)]
    for rows, columns in SIZE_OFFSETS:
        size = (
            max(1, grid[0] + rows) * step[0],
            max(1, grid[1] + columns) * step[1],
        )
        images = _images(replace(subject.preprocess, image_size=size), dataset)
        both = [_outputs(m, images) for m in (subject.model, exported)]
        yield *size, _difference(*both)


def _images(preprocess: Preprocess, dataset: Dataset) -> Tensor:
    examples = dataset.examples[:IMAGES_PER_SIZE]
    opened = (dataset.open(example) for example in examples)
    return torch.stack([preprocess.first_view(each).pixels for each in opened])


def _measure_pixels(
    subject: ExportSubject, exported: ExportedModel, dataset: Dataset
) -> float:
    """Return the largest difference from the pixels of real images, one at a time."""
    worst = 0.0
    for example in dataset.examples[: 4 * IMAGES_PER_SIZE]:
        image = as_rgb(dataset.read(example))
        before = _outputs(subject.model, subject.preprocess(image)[None])
        pixels = torch.from_numpy(np.array(image))[None]
        worst = max(worst, _difference(before, exported.from_pixels(pixels).numpy()))
    return worst


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _format_tolerance(tolerance: float) -> str:
    if np.isfinite(tolerance):
        return f"at most {tolerance:.1e} allowed"
    return "the bound is on accuracy"
