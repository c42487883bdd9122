"""Giving the report its pictures: the run's images, and training images as they enter.

The report itself knows no data; a run whose data has moved gets one without pictures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

import vitral.report
from vitral.data import Dataset, DecodedImage, training_transform
from vitral.data.dataset import Example
from vitral.errors import ImageError, VitralError
from vitral.plots.clips import even_indices
from vitral.workflows.dataset import open_split_data
from vitral.workflows.inputs import input_kind, load_example, make_filmstrip
from vitral.workflows.inspect.report_maps import compute_report_maps, is_current
from vitral.workflows.run import Run
from vitral.workflows.runtime import pick_device

NUM_SAMPLES = 12


class _OpenRun(NamedTuple):
    """A run with its data."""

    run: Run
    dataset: Dataset
    by_id: dict[str, Example]


def write_report(
    out: Path, dataset: Dataset | None = None, others: Sequence[Path] = ()
) -> Path:
    """report.html of a run folder, with `others` beside it.

    What the models look at is computed first where a run has not kept it, or has
    answered other images since.

    Args:
        dataset: the run's data where it is open already.
    """
    runs = [out, *others]
    opened = {
        run: _open_with_data(run, dataset if run == out else None) for run in runs
    }
    for run in opened.values():
        if run is not None:
            _update_maps(run)

    def image(run: Path, name: str) -> Image.Image | None:
        return _load_image(opened[run], name)

    def view(run: Path, name: str) -> Image.Image | None:
        return _load_view(opened[run], name)

    return vitral.report.write_html(
        runs,
        out / "report.html",
        images=image,
        samples=lambda run: _load_samples(opened[run]),
        views=view,
    )


def _open_with_data(run: Path, dataset: Dataset | None) -> _OpenRun | None:
    """None where the run has no model yet, or its data cannot be opened."""
    try:
        found = Run(run)
        if dataset is None:
            kind = input_kind(found.model.config)
            dataset = open_split_data(found.config, run / "split.csv", kind)
    except VitralError:
        return None
    return _OpenRun(found, dataset, {e.id: e for e in dataset.examples})


def _update_maps(opened: _OpenRun) -> None:
    if is_current(opened.run.path):
        return
    try:
        compute_report_maps(opened.run, opened.dataset, pick_device("auto"))
    except OSError:
        # A folder that cannot be written to: the report says what it lacks.
        return


def _load_image(opened: _OpenRun | None, name: str) -> Image.Image | None:
    example = opened.by_id.get(name) if opened is not None else None
    if opened is None or example is None:
        return None
    try:
        decoded = opened.dataset.decode(example)
    except ImageError:
        return None
    return (
        decoded.image
        if opened.dataset.kind == "images"
        else _make_contact_sheet(decoded)
    )


def _load_view(opened: _OpenRun | None, name: str) -> Image.Image | None:
    """What enters the model; of a clip its frames side by side."""
    example = opened.by_id.get(name) if opened is not None else None
    if opened is None or example is None:
        return None
    try:
        pixels = load_example(opened.run.preprocess, opened.dataset, example)
    except ImageError:
        return None
    return _to_image(opened.run, pixels)


def _make_contact_sheet(strip: DecodedImage) -> Image.Image:
    """Four frames of a strip in two rows, read like text; fewer as they are."""
    width, height = strip.image.width // strip.frames, strip.image.height
    places = even_indices(strip.frames, 4)
    sheet = Image.new("RGB", (2 * width, 2 * height), (255, 255, 255))
    for number, place in enumerate(places):
        left = place * width
        frame = strip.image.crop((left, 0, left + width, height))
        sheet.paste(frame, (number % 2 * width, number // 2 * height))
    return sheet


def _load_samples(opened: _OpenRun | None) -> Sequence[tuple[Image.Image, str]]:
    """Training images, augmented as in the first epoch, evenly over the classes."""
    if opened is None:
        return []
    run, dataset = opened.run, opened.dataset
    augment = training_transform(run.config.augment, run.preprocess, run.config.seed)
    examples = sorted(dataset.select("train"), key=lambda e: (e.label, e.id))
    shown = []
    for example in examples[:: max(1, len(examples) // NUM_SAMPLES)][:NUM_SAMPLES]:
        try:
            pixels = augment(dataset.open(example), example.id, 0)
        except ImageError:
            continue
        caption = "; ".join(dataset.classes[label] for label in example.label)
        picture = _to_image(run, pixels)
        if pixels.ndim == 4:
            picture = _make_contact_sheet(
                DecodedImage(image=picture, frames=len(pixels))
            )
        shown.append((picture, caption))
    return shown


def _to_image(run: Run, pixels: Tensor) -> Image.Image:
    """What enters the model, for people."""
    shown = run.preprocess.denormalize(make_filmstrip(pixels))
    return Image.fromarray(shown.permute(1, 2, 0).numpy())
