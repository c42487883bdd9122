"""Build a run's report with its images: evaluated ones, and augmented training ones.

The report itself reads no data. A run whose data has moved gets one without images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import vitral.report
from vitral.data import Dataset, DecodedImage, training_transform
from vitral.data.example import Example
from vitral.errors import ConfigError, ImageError, VitralError
from vitral.plots.clips import even_indices
from vitral.workflows.dataset import open_run_data
from vitral.workflows.inspect.report_maps import compute_report_maps, is_current
from vitral.workflows.run import Run
from vitral.workflows.runtime import pick_device

NUM_SAMPLES = 12
"""Training images in the report."""


@dataclass(frozen=True, slots=True)
class _OpenRun:
    """A run with its data."""

    run: Run
    dataset: Dataset
    by_id: dict[str, Example]


def write_report(out: Path, dataset: Dataset | None = None) -> Path:
    """Write report.html of a run folder.

    The attention maps of a run are computed first if they are missing or belong to
    images other than those of the report.

    Args:
        dataset: the run's data if it is open already.
    """
    return _write_page([out], out / "report.html", dataset)


def write_comparison(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write a page of several runs side by side, each two of which are tested.

    Args:
        out: the HTML file; None for one in the first run's folder that is named after
            the other runs. No run's own report is replaced.

    Raises:
        ConfigError: fewer than two runs, or `out` is the report of a run.
    """
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs two runs or more: got {len(runs)}.")
    out = out if out is not None else runs[0] / comparison_name(runs)
    if out.resolve() in {(run / "report.html").resolve() for run in runs}:
        raise ConfigError(
            f"{out} is the report of one of these runs, which a comparison must not "
            "replace. Give another file."
        )
    return _write_page(runs, out)


def comparison_name(runs: Sequence[Path]) -> str:
    """Return the name of the page that compares the first run with the others."""
    second, *more = (run.resolve().name for run in runs[1:])
    others = (
        f"-and-{len(more)}-more" if len(more) > 1 else "".join(f"-{m}" for m in more)
    )
    return f"comparison-with-{second[:80]}{others[:80]}.html"


def _write_page(
    runs: Sequence[Path], out: Path, dataset: Dataset | None = None
) -> Path:
    opened = {run: _open_with_data(run, dataset) for run in runs}
    for run in opened.values():
        if run is not None:
            _update_maps(run)

    return vitral.report.write_html(
        runs,
        out,
        images=lambda run, name: _load_image(opened[run], name),
        samples=lambda run: _load_samples(opened[run]),
        views=lambda run, name: _load_view(opened[run], name),
    )


def _open_with_data(run: Path, dataset: Dataset | None) -> _OpenRun | None:
    """Open a run with its data; None if its model or its data cannot be opened."""
    try:
        trained = Run(run)
        if dataset is None:
            dataset = open_run_data(trained)
    except VitralError:
        return None
    return _OpenRun(trained, dataset, {e.id: e for e in dataset.examples})


def _update_maps(opened: _OpenRun) -> None:
    if is_current(opened.run.path):
        return
    try:
        compute_report_maps(opened.run, opened.dataset, pick_device("auto"))
    except OSError:
        # The folder is not writable: the report names what is missing.
        return


def _load_image(opened: _OpenRun | None, name: str) -> Image.Image | None:
    example = opened.by_id.get(name) if opened is not None else None
    if opened is None or example is None:
        return None
    try:
        decoded = opened.dataset.decode(example)
    except ImageError:
        return None
    return _make_thumbnail(opened.dataset, decoded)


def _load_view(opened: _OpenRun | None, name: str) -> Image.Image | None:
    """Load an image as it enters the model; of a clip its frames side by side."""
    example = opened.by_id.get(name) if opened is not None else None
    if opened is None or example is None:
        return None
    try:
        view = opened.run.preprocess.first_view(opened.dataset.open(example))
    except ImageError:
        return None
    return opened.run.preprocess.picture(view.pixels)


def _make_thumbnail(dataset: Dataset, decoded: DecodedImage) -> Image.Image:
    is_image = dataset.kind == "images"
    return decoded.image if is_image else _make_contact_sheet(decoded)


def _make_contact_sheet(strip: DecodedImage) -> Image.Image:
    """Arrange four frames of a strip in two rows, in reading order."""
    width, height = strip.image.width // strip.frames, strip.image.height
    sheet = Image.new("RGB", (2 * width, 2 * height), (255, 255, 255))
    for cell, index in enumerate(even_indices(strip.frames, 4)):
        left = index * width
        frame = strip.image.crop((left, 0, left + width, height))
        sheet.paste(frame, (cell % 2 * width, cell // 2 * height))
    return sheet


def _load_samples(opened: _OpenRun | None) -> Sequence[tuple[Image.Image, str]]:
    """Load training images, augmented as in epoch 0, evenly over the classes."""
    if opened is None:
        return []
    run, dataset = opened.run, opened.dataset
    augment = training_transform(run.config.augment, run.preprocess, run.config.seed)
    examples = sorted(dataset.select("train"), key=lambda e: (e.label, e.id))
    samples = []
    for example in examples[:: max(1, len(examples) // NUM_SAMPLES)][:NUM_SAMPLES]:
        try:
            pixels = augment(dataset.open(example), example.id, 0)
        except ImageError:
            continue
        caption = "; ".join(dataset.classes[label] for label in example.label)
        frames = pixels.shape[:-3].numel()
        strip = DecodedImage(image=run.preprocess.picture(pixels), frames=frames)
        samples.append((_make_thumbnail(dataset, strip), caption))
    return samples
