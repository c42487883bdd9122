"""Results of a study: a dot for each seed, a line for the mean of each cell."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    SERIES_COLORS,
    Plot,
    add_gridlines,
    format_percent,
    percent_formatter,
    shorten,
    single_axes,
)

COLORS = SERIES_COLORS[:5]
ROW_HEIGHT = 0.34  # inches a line of dots
LONGEST_ROW = 34


def seed_accuracies(
    values: Mapping[tuple[str, str], Sequence[float]],
    *,
    title: str,
    measure: str = "test accuracy",
) -> Plot:
    """Draw accuracies over seeds, a line of dots for each row and column of a table.

    Args:
        values: the shares of each (row, column), one for each seed, in the order of
            the table.

    Raises:
        DataError: there is nothing to draw, a cell without values, or more columns
            than colours.
    """
    if not values or not all(len(shares) for shares in values.values()):
        raise DataError(
            "a figure of a study needs a value in every place of its table."
        )
    rows = list(dict.fromkeys(row for row, _ in values))
    columns = list(dict.fromkeys(column for _, column in values))
    if len(columns) > len(COLORS):
        raise DataError(
            f"a figure of a study has {len(COLORS)} colours: got {len(columns)} "
            "columns. Turn the table, or draw its parts."
        )
    title = shorten(title, 80)
    height = 1.3 + ROW_HEIGHT * max(len(values), 3)
    with single_axes(6.8, height) as (figure, axes):
        _draw(axes, values, rows, columns)
        axes.set_title(title)
        axes.set_xlabel(f"{measure}; each dot a seed, the bar their mean")
        axes.xaxis.set_major_formatter(percent_formatter())
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        add_gridlines(axes, "x")
        if len(columns) > 1:
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
                title="",
                handletextpad=0.2,
            )
    means = {cell: sum(shares) / len(shares) for cell, shares in values.items()}
    best = max(means, key=lambda cell: means[cell])
    worst = min(means, key=lambda cell: means[cell])
    alt = (
        f"{title}: from {format_percent(means[worst])} ({_name(worst)}) to "
        f"{format_percent(means[best])} ({_name(best)})."
    )
    return Plot(figure, alt)


def _name(cell: tuple[str, str]) -> str:
    return ", ".join(label for label in cell if label)


def _draw(
    axes: Axes,
    values: Mapping[tuple[str, str], Sequence[float]],
    rows: list[str],
    columns: list[str],
) -> None:
    labelled: set[str] = set()
    ticks, names, y = [], [], 0.0
    for row in rows:
        filled = [column for column in columns if (row, column) in values]
        ticks.append(y + 0.5 * (len(filled) - 1))
        names.append(shorten(row, LONGEST_ROW))
        for column in filled:
            shares, color = values[row, column], COLORS[columns.index(column)]
            mean = sum(shares) / len(shares)
            label = None if column in labelled else shorten(column, LONGEST_ROW)
            labelled.add(column)
            axes.plot(shares, [y] * len(shares), "o", color=color, ms=5, alpha=0.65)
            axes.plot([mean], [y], "|", color=color, ms=15, mew=2.2, label=label)
            y += 1.0
        y += 0.35
    axes.set_yticks(ticks, names)
    axes.set_ylim(y - 0.35, -1.0)
    axes.margins(x=0.08)
