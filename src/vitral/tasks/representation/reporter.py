"""Parts of report and card of a model without labels: loss, neighbours, pictures."""

import io
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from vitral.document import (
    Block,
    Cell,
    Column,
    Figures,
    Heading,
    Number,
    PageBudget,
    Picture,
    PictureSources,
    Row,
    RunFolder,
    Section,
    Table,
    Text,
    Verdict,
    count,
    data_uri,
    decimal,
    interval,
    pointer,
    share,
)
from vitral.evaluation import Interval
from vitral.tasks.reporter import Reporter
from vitral.tasks.representation.monitor import RESULT_FILE
from vitral.tasks.representation.reconstructions import FIGURE_FILE
from vitral.tasks.result import Result

WIDEST = 900  # CSS pixels
COLUMNS = (
    Column("images"),
    Column("loss"),
    Column("class by neighbours"),
    Column("95 % interval", "text"),
)


@dataclass(frozen=True, slots=True)
class RepresentationRow:
    """Images and loss of a split, and the accuracy of neighbours if it has classes."""

    split: str
    images: Number
    loss: Number
    neighbours: Number | None
    interval: Text


class RepresentationReporter(Reporter):
    """Writer about features."""

    subject: ClassVar[str] = "An encoder of images, without a head"
    outputs_name: ClassVar[str] = "features"

    def verdict(self, run: RunFolder[Result]) -> Verdict:
        stored = run.read_object(RESULT_FILE)
        if stored is None:
            return super().verdict(run)
        return Verdict(None, _sentence(stored), [])

    def sections(
        self, run: RunFolder[Result], sources: PictureSources, budget: PageBudget
    ) -> list[Section]:
        stored = run.read_object(RESULT_FILE)
        if stored is None:
            return super().sections(run, sources, budget)
        table = Table(
            caption="Loss and nearest neighbours in every split",
            corner="split",
            columns=COLUMNS,
            rows=[Row(row.split, _cells(row)) for row in _rows(stored)],
        )
        blocks: list[Block] = [table]
        picture = _picture(run.read_bytes(FIGURE_FILE))
        if picture is not None:
            blocks += [Heading("Reconstructions"), Figures([picture])]
        return [Section(id="results", title="Results", blocks=blocks)]

    def limits(self, run: RunFolder[Result]) -> list[str]:
        lines = ["It answers nothing until it is fine-tuned on labels."]
        if run.read_object(RESULT_FILE) is None:
            lines.append("It has not been measured.")
        return lines


def _sentence(stored: dict[str, Any]) -> Text:
    """Return the main sentence: the loss, and the accuracy of neighbours."""
    rows = _rows(stored)
    name = str(stored.get("objective", "")).replace("_", " ")
    start = f"This model was trained without labels ({name}) and answers no classes: "
    if not rows:
        return [start, "no images were held out to measure it."]
    line = rows[-1]
    text: list[Any] = [
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


def _rows(stored: dict[str, Any]) -> list[RepresentationRow]:
    splits = stored.get("splits") or {}
    return [_representation_row(split, values) for split, values in splits.items()]


def _representation_row(split: str, values: dict[str, Any]) -> RepresentationRow:
    source = pointer(RESULT_FILE, "splits", split)
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


def _cells(row: RepresentationRow) -> list[Cell]:
    limits = row.interval if row.neighbours is not None else None
    return [row.images, row.loss, row.neighbours, limits]


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
