"""Numbers of a result as people read them, and the table of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vitral.document import (
    Cell,
    Column,
    Number,
    Row,
    RunFolder,
    Table,
    Text,
    count,
    decimal,
    interval,
    number_interval,
    pointer,
    result_file,
    share,
    significant,
)
from vitral.evaluation import Interval
from vitral.tasks.result import Headline, Result


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a result, by the name of its field, and how people read it."""

    field: str
    name: str
    note: str = ""
    """Its meaning in a few words."""
    kind: Literal["share", "number", "decimal", "count"] = "share"
    """Percent, four significant digits, three decimals, or a whole number."""

    def number(self, result: Result, file: str) -> Number:
        """Return the number with its source."""
        value, source = getattr(result, self.field), pointer(file, self.field)
        if self.kind == "count":
            return count(value, source)
        if self.kind == "number":
            return significant(value, source)
        return (share if self.kind == "share" else decimal)(value, source)

    def interval(self, result: Result, file: str) -> Text:
        """Return the field `<field>_interval` in words; empty without one."""
        limits = getattr(result, f"{self.field}_interval", None)
        if limits is None:
            return []
        source = pointer(file, f"{self.field}_interval")
        return format_interval(limits, source, is_share=self.kind == "share")


def format_interval(limits: Interval, source: str, *, is_share: bool) -> Text:
    """Return an interval in words, of shares in percent."""
    return (interval if is_share else number_interval)(limits, source)


def format_headline(headline: Headline, file: str) -> tuple[Number, Text]:
    """Return the number and its interval; empty if there is none."""
    source = pointer(file, headline.field)
    number = (share if headline.is_share else significant)(headline.value, source)
    if headline.interval is None:
        return number, []
    source = pointer(file, f"{headline.field}_interval")
    return number, format_interval(
        headline.interval, source, is_share=headline.is_share
    )


def measures_table(
    run: RunFolder[Result], measures: Callable[[Result], Sequence[Measure]]
) -> Table:
    """Return the table of measures: a row each, two columns a split."""
    by_field = {
        measure.field: measure
        for result in run.results.values()
        for measure in measures(result)
    }
    rows = []
    for measure in by_field.values():
        cells: list[Cell] = []
        for split, result in run.results.items():
            cells += _measure_cells(measure, result, result_file(split))
        if any(cell is not None for cell in cells):
            rows.append(Row(measure.name, cells, measure.note))
    columns = [
        column
        for split in run.results
        for column in (Column(split), Column("95 % interval", "text"))
    ]
    return Table(
        caption="Every measure in every split",
        corner="measure",
        columns=columns,
        rows=rows,
    )


def _measure_cells(measure: Measure, result: Result, file: str) -> tuple[Cell, Cell]:
    if getattr(result, measure.field, None) is None:
        return None, None
    return measure.number(result, file), measure.interval(result, file)
