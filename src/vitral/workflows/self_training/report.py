"""Report page of the pseudo-labels of one round."""

from pathlib import Path

import numpy as np
from PIL import Image

from vitral.data.sources import csv_rows, json_rows, read_text
from vitral.errors import DataError, ImageError
from vitral.report import PseudoLabelReport, write_pseudo_page
from vitral.workflows.self_training.pseudo_labels import RoundLabels, UnlabeledSet


def write_pseudo_report(
    folder: Path,
    labels: RoundLabels,
    unlabeled: UnlabeledSet,
    teacher: Path,
    *,
    classes: tuple[str, ...],
    threshold: float,
    truth: dict[str, int] | None,
) -> Path:
    """Write the page and its picture into the folder of a round's labels.

    Args:
        truth: path to class; None if no true label is known.
    """
    predictions = labels.predictions
    copies = np.zeros(len(predictions.paths), dtype=np.int64)
    copies[labels.pseudo.chosen.numpy()] = labels.pseudo.repeats.numpy()
    by_path = {example.id: example for example in unlabeled.images.examples}

    def read_image(path: str) -> Image.Image | None:
        try:
            return unlabeled.images.read(by_path[path])
        except ImageError:
            return None

    true_labels = None
    if truth is not None:
        true_labels = np.array([truth.get(path, -1) for path in predictions.paths])
    report = PseudoLabelReport(
        title=f"{folder.resolve().parent.name}, round {folder.name.split('-')[-1]}",
        teacher=str(teacher),
        unlabelled=str(unlabeled.images.root),
        classes=classes,
        paths=predictions.paths,
        label=predictions.probabilities.argmax(axis=1),
        confidence=predictions.probabilities.max(axis=1),
        copies=copies * labels.pseudo_copies,
        threshold=threshold,
        num_labelled=labels.num_labelled,
        labelled_copies=labels.labelled_copies,
        left_out=list(unlabeled.left_out.items()),
        truth=true_labels,
    )
    return write_pseudo_page(folder, report, read_image)


def read_truth(file: str, classes: tuple[str, ...]) -> dict[str, int] | None:
    """Read a table `path,label` as path to class index; None if none is given."""
    if not file:
        return None
    table = Path(file)
    text = read_text(table)
    rows = json_rows(table, text) if table.suffix == ".jsonl" else csv_rows(table, text)
    indices = {name: index for index, name in enumerate(classes)}
    truth = {}
    for line, row in rows:
        if row["label"] not in indices:
            raise DataError(
                f"{table.name} line {line}: {row['label']!r} is no class; the teacher "
                f"knows {', '.join(classes[:8])}. Correct it, or remove the row."
            )
        truth[row["path"]] = indices[row["label"]]
    return truth
