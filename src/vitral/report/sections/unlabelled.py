"""Section of a run without labels: loss, nearest neighbours and reconstructions."""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vitral.evaluation import Interval
from vitral.report.images import Picture, data_uri
from vitral.report.load_run import RunFolder
from vitral.report.numbers import Number, Text, count, decimal, interval, pointer, share

FILE = "representation.json"
WIDEST = 900  # CSS pixels


@dataclass(frozen=True, slots=True)
class RepresentationRow:
    """Images and loss of a split, and the accuracy of neighbours if it has classes."""

    split: str
    images: Number
    loss: Number
    neighbours: Number | None
    interval: Text


def representation_section(run: RunFolder) -> dict[str, Any] | None:
    """Return rows and picture; None for a run that was measured by its answers."""
    if run.representation is None:
        return None
    picture = _picture(run.reconstructions)
    return {"lines": _rows(run.representation), "picture": picture}


def representation_sentence(run: RunFolder) -> Text:
    """Return the main sentence: the loss, and the accuracy of neighbours."""
    assert run.representation is not None
    rows = _rows(run.representation)
    name = str(run.representation.get("objective", "")).replace("_", " ")
    start = f"This model was trained without labels ({name}) and answers no classes: "
    if not rows:
        return [start, "no images were held out to measure it."]
    line = rows[-1]
    text: list[str | Number] = [
        start,
        "its loss on ",
        line.images,
        f" {line.split} images is ",
        line.loss,
    ]
    if line.neighbours is None:
        return [*text, "."]
    return [
        *text,
        "; the nearest training images in its features tell the class of ",
        line.neighbours,
        " of them (95 % interval ",
        *line.interval,
        "). Fine-tune it with `vitral train DATA --weights RUN`.",
    ]


def _rows(representation: dict[str, Any]) -> list[RepresentationRow]:
    splits = representation.get("splits") or {}
    return [_representation_row(split, values) for split, values in splits.items()]


def _representation_row(split: str, values: dict[str, Any]) -> RepresentationRow:
    source = pointer(FILE, "splits", split)
    images = count(int(values["n"]), f"{source}/n")
    loss = decimal(values["loss"], f"{source}/loss", 4)
    probe = values.get("knn")
    if probe is None:
        return RepresentationRow(split, images, loss, None, [])
    low, high = probe["interval"]
    return RepresentationRow(
        split,
        images,
        loss,
        share(probe["accuracy"], f"{source}/knn/accuracy"),
        interval(Interval(low, high), f"{source}/knn/interval"),
    )


def _picture(content: bytes | None) -> Picture | None:
    if content is None:
        return None
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    shown = min(width // 2, WIDEST)  # drawn at two dots a CSS pixel
    alt = "Images, the same with hidden patches, and what was drawn in the gaps"
    return Picture(
        data_uri("image/png", content), alt, shown, round(height * shown / width)
    )
