"""Giving the report its pictures: the run's images, and training images as they enter.

The report itself knows no data; a run whose data has moved gets one without pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

import vitral.report
from vitral.data import Augment, DataSet
from vitral.errors import ImageError, VitralError
from vitral.run.config import TrainConfig
from vitral.run.folder import Run
from vitral.run.setup import open_data

NUM_SAMPLES = 12


def write_report(
    out: Path, dataset: DataSet | None = None, others: Sequence[Path] = ()
) -> Path:
    """report.html of a run folder, with `others` beside it.

    Args:
        dataset: the run's data where it is open already.
    """
    known: dict[Path, DataSet | None] = {}
    if dataset is not None:
        known[out] = dataset

    def data_of(run: Path) -> DataSet | None:
        if run not in known:
            try:
                known[run] = open_data(Run(run).config)
            except VitralError:
                known[run] = None
        return known[run]

    return vitral.report.write(
        [out, *others],
        out / "report.html",
        images=_reader(data_of),
        samples=lambda run: _samples(run, data_of(run)),
    )


def _reader(
    data_of: Callable[[Path], DataSet | None],
) -> Callable[[Path, str], Image.Image | None]:
    by_id: dict[Path, dict[str, object]] = {}

    def read(run: Path, name: str) -> Image.Image | None:
        dataset = data_of(run)
        if dataset is None:
            return None
        if run not in by_id:
            by_id[run] = {example.id: example for example in dataset.examples}
        example = by_id[run].get(name)
        try:
            return dataset.read(example) if example else None  # type: ignore[arg-type]
        except ImageError:
            return None

    return read


def _samples(run: Path, dataset: DataSet | None) -> Sequence[tuple[Image.Image, str]]:
    """Training images, augmented as in the first epoch, evenly over the classes."""
    if dataset is None:
        return []
    opened = Run(run)
    config: TrainConfig = opened.config
    augment = Augment(
        config=config.augment, preprocess=opened.preprocess, seed=config.seed
    )
    examples = sorted(dataset.select("train"), key=lambda e: (e.label, e.id))
    shown = []
    for example in examples[:: max(1, len(examples) // NUM_SAMPLES)][:NUM_SAMPLES]:
        try:
            pixels = augment(dataset.read(example), example.id, 0)
        except ImageError:
            continue
        picture = opened.preprocess.inverse(pixels).permute(1, 2, 0).numpy()
        caption = "; ".join(dataset.classes[label] for label in example.label)
        shown.append((Image.fromarray(picture), caption))
    return shown
