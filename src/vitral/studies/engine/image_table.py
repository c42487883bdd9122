"""Tables of images that a study writes into its own folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitral.atomic_io import write_atomic
from vitral.data import Dataset, Example


def write_image_table(
    folder: Path, name: str, dataset: Dataset, parts: Mapping[str, Sequence[Example]]
) -> Path:
    """A table of images that are written once; gives the table.

    Args:
        folder: gets `images/` and `NAME.csv`.
        parts: the examples of each split.
    """
    place = {one.id: number for number, one in enumerate(dataset.examples)}
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    for split, examples in parts.items():
        for one in sorted(examples, key=lambda example: place[example.id]):
            file = images / f"{place[one.id]:06}.png"
            if not file.is_file():
                found = io.BytesIO()
                dataset.read(one).save(found, format="PNG")
                write_atomic(file, found.getvalue())
            label = dataset.classes[one.label[0]]
            writer.writerow([f"images/{file.name}", label, split])
    write_atomic(folder / f"{name}.csv", text.getvalue())
    return folder / f"{name}.csv"
