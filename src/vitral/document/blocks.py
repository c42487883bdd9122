"""Blocks of a page: paragraphs, tables, figures and galleries, which report draws.

A task describes what it shows with these and needs no HTML of its own:

    ends = number_interval(limits, f"{source}_interval")
    Section(
        id="results",
        title="Results",
        blocks=[
            Table(
                caption="Error in every split",
                corner="split",
                columns=[Column("mean absolute error"), Column("95 %", "text")],
                rows=[Row("test", [significant(0.31, source), ends])],
            ),
            Heading("Predicted and true values"),
            Figures([svg_picture(scatter), svg_picture(residuals)]),
            Paragraph(["A point on the line is a right answer."], "note"),
        ],
    )
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vitral.document.images import Picture
from vitral.document.numbers import Number, Text
from vitral.evaluation import Interval


@dataclass(frozen=True, slots=True)
class Bar:
    """Drawing of a share with its interval, on a scale of 0..100."""

    low: float
    high: float
    value: float


def bar(limits: Interval, value: float) -> Bar:
    """Return the drawing of a share in 0..1, to a tenth of a percent."""
    low, high, middle = (
        round(100 * end, 1) for end in (limits.low, limits.high, value)
    )
    return Bar(low, high, middle)


Tone = Literal["plain", "quiet", "note", "remark", "missing"]
"""`quiet` is grey, `note` and `remark` are small (a remark keeps its distance),
`missing` is boxed and stands for what cannot be shown."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of one or several sentences."""

    KIND: ClassVar[str] = "paragraph"
    text: Text
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    KIND: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a table."""

    title: str
    kind: Literal["number", "text", "name", "bar"] = "number"
    """Cells are a `Number`, a `Text` (a name may break), or a `Bar`; or None."""


Cell = Number | Text | Bar | None


@dataclass(frozen=True, slots=True)
class Row:
    """Row of a table."""

    name: str
    cells: Sequence[Cell]
    """One a column."""
    note: str = ""
    """Small words below the name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table whose first column names the rows."""

    KIND: ClassVar[str] = "table"
    caption: str
    """Words for screen readers."""
    corner: str
    """Title of the first column."""
    columns: Sequence[Column]
    rows: Sequence[Row]
    wide: bool = False
    """True to fill the width of the page."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One figure, or several side by side where there is room."""

    KIND: ClassVar[str] = "figures"
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Example:
    """A picture of an answer, its map, and the words below; see `build_gallery`."""

    caption: Text
    path: str
    picture: Picture | None
    """None: it cannot be loaded, or there is no room for it."""
    map_picture: Picture | None


@dataclass(frozen=True, slots=True)
class Gallery:
    """Grid of pictures with their maps."""

    KIND: ClassVar[str] = "gallery"
    items: Sequence[Example]
    strips: bool = False
    """True if the maps are strips of frames, which show the input as well."""

    @property
    def with_maps(self) -> bool:
        """True if any picture has a map."""
        return any(item.map_picture for item in self.items)

    @property
    def with_pictures(self) -> bool:
        """True if any answer has its picture."""
        return any(item.picture for item in self.items)


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that are shown on demand."""

    KIND: ClassVar[str] = "fold"
    summary: str
    blocks: "Sequence[Block]"


Block = Paragraph | Heading | Table | Figures | Gallery | Fold


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Section of a page, with a link in its navigation."""

    id: str
    """Anchor, such as `results`."""
    title: str
    """Word in the navigation."""
    heading: str = ""
    """Heading; empty for the title."""
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence after the main one."""

    tone: Literal["good", "plain", "warning"]
    text: Text


@dataclass(frozen=True, slots=True)
class Verdict:
    """The main sentence of a run, and its remarks."""

    split: str | None
    text: Text
    remarks: list[Remark]


@dataclass(frozen=True, slots=True)
class Gauge:
    """Drawing under the main sentence: a share, its interval and its baseline."""

    bar: Bar
    baseline: float
    """0..100."""
    baseline_name: str
