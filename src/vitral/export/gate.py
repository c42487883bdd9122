"""The gate: an exported file beside the model it came from, on real images.

Nothing is kept that was not measured. The logits must be equal to 1e-4 in float32, of
the largest logit where that is above 1; what computes in less is held to a bound on
accuracy instead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitral.data import Dataset, Loader, Preprocess, evaluation_transform
from vitral.data.images import as_rgb
from vitral.errors import GateError
from vitral.export.model import ExportSubject, single_view
from vitral.models import VisionModel
from vitral.weights import ExportedFile, ExportedModel
from vitral.workflows.inference import predict_logits
from vitral.workflows.inputs import evaluation_batch_size, load_example

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit where above 1."""
ROUNDED_TOLERANCE = 2e-2
"""The same from uint8 pixels with antialias: Pillow rounds to 8 bits in between, and
where the graph rounds to the other side a pixel is one step of 255 away."""
MAX_IMAGES = 1000
"""Of the split, at most."""
IMAGES_PER_SIZE = 3
"""Images at each of the other sizes, and from their pixels."""
EXCLUDED_FIELDS = ("path", "int8")
"""Of what travels in the file: its place may change; int8.json has the other."""
SIZE_OFFSETS = ((0, 0), (1, 0), (0, 2), (-1, 1), (2, -1))
"""Rows and columns of patches added to the model's own, for the five sizes."""


class SizeDifference(NamedTuple):
    """The largest difference on images of one size."""

    height: int
    width: int
    difference: float


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What was measured of an exported file before it was kept."""

    path: str
    backend: str
    precision: str
    images: int
    """How many were compared."""
    split: str
    """Which they are of."""
    difference: float
    """Largest absolute difference of a logit to the model itself."""
    scale: float
    """Largest absolute logit of the model."""
    tolerance: float
    """What the difference was held to; infinite where the bound is on accuracy."""
    agreement: float
    """Share of the images with the same answer."""
    accuracy_before: float | None
    """Of the model on these images, 0..1; None where their classes are others. Of a
    model with several labels an image, the share of its decisions that are right."""
    accuracy: float | None
    """Of the exported file."""
    sizes: tuple[SizeDifference, ...] = ()
    """Other image sizes that were compared; none for a fixed size."""
    pixels_difference: float | None = None
    """From uint8 pixels; None where the graph does not pre-process."""
    pixels_tolerance: float | None = None
    """What that was held to."""
    megabytes: float = 0.0
    int8: tuple[str, ...] = ()
    """Lines on how the model came to int8, of bounded.py and precisions.py."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        values = {
            key: value
            for key, value in asdict(self).items()
            if key not in EXCLUDED_FIELDS
        }
        values["tolerance"] = _finite_or_none(self.tolerance)
        values["sizes"] = [list(size) for size in self.sizes]
        return values

    def lines(self) -> list[str]:
        """For a person."""
        found = [
            f"gate: {self.images} images of {self.split}, largest difference of a "
            f"logit {self.difference:.1e} ({_format_tolerance(self.tolerance)}; the "
            "largest "
            f"logit is {self.scale:.3g}), the same answer on "
            f"{100 * self.agreement:.2f} %"
        ]
        if self.accuracy is not None and self.accuracy_before is not None:
            found.append(
                f"accuracy: {100 * self.accuracy_before:.2f} % before, "
                f"{100 * self.accuracy:.2f} % as exported"
            )
        if self.sizes:
            sizes = ", ".join(
                f"{size.height} x {size.width} {size.difference:.1e}"
                for size in self.sizes
            )
            found.append(f"other sizes: {sizes}")
        if self.pixels_difference is not None:
            allowed = _format_tolerance(self.pixels_tolerance or float("inf"))
            found.append(f"from uint8 pixels: {self.pixels_difference:.1e} ({allowed})")
        return [*found, *self.int8]


class LogitComparison(NamedTuple):
    """Logits of both on the same images, [images, classes], and what is right."""

    before: np.ndarray
    after: np.ndarray
    targets: np.ndarray
    """One-hot, soft or multi-hot, [images, the data's classes]."""


def gate(
    subject: ExportSubject,
    artefact: ExportedFile,
    dataset: Dataset,
    split: str,
    *,
    path: str,
    max_drop: float,
) -> GateReport:
    """Measure `artefact` and refuse it where it is another function than the model.

    Args:
        dataset: the images to compare on.
        max_drop: points of accuracy that a file in bfloat16 or int8 may lose.

    Raises:
        GateError: a difference is above what is allowed.
    """
    multi_label = bool(subject.extra.get("multi_label", False))
    found = _compare_logits(subject, artefact.model, dataset, multi_label)
    scale = float(np.abs(found.before).max())
    exact = artefact.metadata.precision == "fp32"
    tolerance = TOLERANCE * max(1.0, scale) if exact else float("inf")
    before, after = (
        _accuracy(logits, found.targets, _class_indices(subject, dataset), multi_label)
        for logits in (found.before, found.after)
    )
    pixels, allowed = None, None
    if artefact.metadata.with_preprocess:
        pixels = _measure_pixels(subject, artefact.model, dataset)
        if exact:
            each = ROUNDED_TOLERANCE if subject.preprocess.antialias else TOLERANCE
            allowed = each * max(1.0, scale)
    sizes: tuple[SizeDifference, ...] = ()
    if artefact.metadata.image_size is None:
        sizes = tuple(_measure_sizes(subject, artefact.model, dataset))
    report = GateReport(
        path=path,
        backend=artefact.model.backend,
        precision=artefact.metadata.precision,
        images=len(found.before),
        split=split,
        difference=_difference(found.before, found.after),
        scale=scale,
        tolerance=tolerance,
        agreement=_agreement(found, multi_label),
        accuracy_before=before,
        accuracy=after,
        sizes=sizes,
        pixels_difference=pixels,
        pixels_tolerance=allowed,
    )
    for reason in _refusal_reasons(report, found, max_drop):
        raise GateError(
            f"{path} was not written: {reason}. The file would not be the model that "
            "was measured; report this with the model's settings, or export to the "
            "other target."
        )
    return report


def _refusal_reasons(
    report: GateReport, comparison: LogitComparison, max_drop: float
) -> Iterator[str]:
    """Why the file is refused."""
    if not np.isfinite(comparison.after).all():
        yield "it answers with numbers that are not finite"
    over = [("", report.difference, report.tolerance)]
    over += [
        (f" at {size.height} x {size.width}", size.difference, report.tolerance)
        for size in report.sizes
    ]
    if report.pixels_difference is not None and report.pixels_tolerance is not None:
        over.append(
            (" from uint8 pixels", report.pixels_difference, report.pixels_tolerance)
        )
    for where, difference, allowed in over:
        # Not `>`: a difference that is no number is no agreement.
        if not difference <= allowed:
            yield (
                f"its logits{where} differ by {difference:.2e}, and {allowed:.2e} is "
                "allowed"
            )
    margin = np.sort(comparison.before, axis=1)
    if np.isfinite(report.tolerance) and margin.shape[1] > 1:
        clear = margin[:, -1] - margin[:, -2] > 2 * report.tolerance
        other = comparison.before.argmax(1) != comparison.after.argmax(1)
        if (clear & other).any():
            yield f"it answers {int((clear & other).sum())} images otherwise"
    if report.accuracy is not None and report.accuracy_before is not None:
        drop = 100 * (report.accuracy_before - report.accuracy)
        if drop > max_drop:
            yield (
                f"it loses {drop:.2f} points of accuracy, and {max_drop:g} are allowed"
            )


def _compare_logits(
    subject: ExportSubject, exported: ExportedModel, dataset: Dataset, multi_label: bool
) -> LogitComparison:
    preprocess = single_view(subject.preprocess)
    loader = Loader(
        dataset=dataset,
        examples=dataset.examples,
        transform=evaluation_transform(preprocess),
        batch_size=evaluation_batch_size(preprocess, 8),
    )
    parts: list[LogitComparison] = []
    for batch in loader.epoch(0):
        before, after = (
            _logits(model, batch.image, multi_label)
            for model in (subject.model, exported)
        )
        parts.append(LogitComparison(before, after, batch.target.numpy()))
    if not parts:
        raise GateError(
            f"None of the images in {dataset.root} can be read, so that nothing can be "
            "compared: give others with `--data DATA`."
        )
    return LogitComparison(
        *(np.concatenate(column) for column in zip(*parts, strict=True))
    )


def _logits(model: VisionModel, image: Tensor, multi_label: bool) -> np.ndarray:
    logits = predict_logits(
        model, image, views="one", bf16=False, multi_label=multi_label
    )
    return logits.numpy()


def _class_indices(subject: ExportSubject, dataset: Dataset) -> list[int] | None:
    """The logit of each class of the data; None where one is unknown."""
    if not dataset.classes:
        return None
    places: Mapping[str, int] = {name: i for i, name in enumerate(subject.classes)}
    if any(name not in places for name in dataset.classes):
        return None
    return [places[name] for name in dataset.classes]


def _accuracy(
    logits: np.ndarray,
    targets: np.ndarray,
    class_indices: list[int] | None,
    multi_label: bool,
) -> float | None:
    if class_indices is None:
        return None
    if multi_label:
        return float(((logits[:, class_indices] > 0) == (targets > 0)).mean())
    right = np.array(class_indices)[targets.argmax(1)]
    return float((logits.argmax(1) == right).mean())


def _agreement(comparison: LogitComparison, multi_label: bool) -> float:
    if multi_label:
        return float(
            ((comparison.before > 0) == (comparison.after > 0)).all(axis=1).mean()
        )
    return float((comparison.before.argmax(1) == comparison.after.argmax(1)).mean())


def _measure_sizes(
    subject: ExportSubject, exported: ExportedModel, dataset: Dataset
) -> Iterator[SizeDifference]:
    """Five sizes, rectangles among them, on the first images of the data."""
    config = subject.model.config
    step = getattr(config, "patch_hw", (32, 32))
    grid = [max(1, side // by) for side, by in zip(config.image_hw, step, strict=True)]
    for rows, columns in SIZE_OFFSETS:
        size = (
            max(1, grid[0] + rows) * step[0],
            max(1, grid[1] + columns) * step[1],
        )
        images = _images(replace(subject.preprocess, image_size=size), dataset)
        both = [_logits(m, images, False) for m in (subject.model, exported)]
        yield SizeDifference(*size, _difference(*both))


def _images(preprocess: Preprocess, dataset: Dataset) -> Tensor:
    examples = dataset.examples[:IMAGES_PER_SIZE]
    return torch.stack([load_example(preprocess, dataset, one) for one in examples])


def _measure_pixels(
    subject: ExportSubject, exported: ExportedModel, dataset: Dataset
) -> float:
    """The largest difference from the pixels of real images, one after the other."""
    worst = 0.0
    for example in dataset.examples[: 4 * IMAGES_PER_SIZE]:
        image = as_rgb(dataset.read(example))
        before = _logits(subject.model, subject.preprocess(image)[None], False)
        pixels = torch.from_numpy(np.array(image))[None]
        worst = max(worst, _difference(before, exported.from_pixels(pixels).numpy()))
    return worst


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def _finite_or_none(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _format_tolerance(tolerance: float) -> str:
    if np.isfinite(tolerance):
        return f"at most {tolerance:.1e} allowed"
    return "the bound is on accuracy"
