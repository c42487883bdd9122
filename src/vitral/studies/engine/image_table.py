"""Image tables that a study writes into its own folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitral.atomic_io import write_atomic
from vitral.data import Dataset, Example


def write_image_table(
    folder: Path, name: str, dataset: Dataset, parts: Mapping[str, Sequence[Example]]
) -> Path:
    """Write a table and those of its images that are missing; return the table's path.

    Args:
        folder: gets `images/` and `NAME.csv`.
        parts: the examples of each split.
    """
    index = {example.id: i for i, example in enumerate(dataset.examples)}
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    for split, examples in parts.items():
        for example in sorted(examples, key=lambda example: index[example.id]):
            file = images / f"{index[example.id]:06}.png"
            if not file.is_file():
                png = io.BytesIO()
                dataset.read(example).save(png, format="PNG")
                write_atomic(file, png.getvalue())
            label = dataset.classes[example.label[0]]
            writer.writerow([f"images/{file.name}", label, split])
    write_atomic(folder / f"{name}.csv", text.getvalue())
    return folder / f"{name}.csv"
