"""What a report says of a run without labels: loss, neighbours and drawings."""

import base64
import io
from typing import Any, NamedTuple

from PIL import Image

from vitral.evaluation import Interval
from vitral.report.images import Picture
from vitral.report.load_run import RunFolder
from vitral.report.numbers import Number, Text, count, decimal, interval, pointer, share

FILE = "representation.json"
WIDEST = 900  # CSS pixels


class RepresentationRow(NamedTuple):
    """One split: images, loss, and the neighbours' share where there are classes."""

    split: str
    images: Number
    loss: Number
    neighbours: Number | None
    interval: Text


class RepresentationSection(NamedTuple):
    """The results of a run without labels as the template sees them."""

    lines: list[RepresentationRow]
    picture: Picture | None


def representation_section(run: RunFolder) -> RepresentationSection | None:
    """None where a run was measured by its answers."""
    if run.representation is None:
        return None
    splits: dict[str, Any] = run.representation.get("splits") or {}
    lines = [_representation_row(split, splits[split]) for split in splits]
    return RepresentationSection(lines, _picture(run.reconstructions))


def representation_sentence(run: RunFolder) -> Text:
    """The main sentence: the loss, and what neighbours know."""
    assert run.representation is not None
    found = representation_section(run)
    name = str(run.representation.get("objective", "")).replace("_", " ")
    begin = f"This model was trained without labels ({name}) and answers no classes: "
    if found is None or not found.lines:
        return [begin, "no images were held out to measure it."]
    line = found.lines[-1]
    text: list[str | Number] = [
        begin,
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


def _representation_row(split: str, values: dict[str, Any]) -> RepresentationRow:
    where = pointer(FILE, "splits", split)
    images = count(int(values["n"]), f"{where}/n")
    loss = decimal(values["loss"], f"{where}/loss", 4)
    probe = values.get("knn")
    if probe is None:
        return RepresentationRow(split, images, loss, None, [])
    low, high = probe["interval"]
    return RepresentationRow(
        split,
        images,
        loss,
        share(probe["accuracy"], f"{where}/knn/accuracy"),
        interval(Interval(low, high), f"{where}/knn/interval"),
    )


def _picture(content: bytes | None) -> Picture | None:
    if content is None:
        return None
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    shown = min(width // 2, WIDEST)  # drawn at two dots a CSS pixel
    source = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    alt = "Images, the same with hidden patches, and what was drawn in the gaps"
    return Picture(source, alt, shown, round(height * shown / width))
