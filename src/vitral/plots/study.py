"""Results of a study: a dot for each seed, a line for the mean of each cell."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    SERIES_COLORS,
    Plot,
    format_percent,
    label_axes,
    percent_formatter,
    shorten,
    single_axes,
    style_context,
)

COLORS = SERIES_COLORS[:5]
ROW_HEIGHT = 0.34  # inches a line of dots
LONGEST_ROW = 34


@style_context()
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
    figure, axes = single_axes(6.8, 1.3 + ROW_HEIGHT * max(len(values), 3))
    means = {cell: sum(shares) / len(shares) for cell, shares in values.items()}
    _draw(axes, values, means, rows, columns)
    x = f"{measure}; each dot a seed, the bar their mean"
    label_axes(axes, title, x, grid="x")
    axes.xaxis.set_major_formatter(percent_formatter())
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if len(columns) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2)
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
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
    means: Mapping[tuple[str, str], float],
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
            label = None if column in labelled else shorten(column, LONGEST_ROW)
            labelled.add(column)
            axes.plot(shares, [y] * len(shares), "o", color=color, ms=5, alpha=0.65)
            axes.plot(
                [means[row, column]], [y], "|", color=color, ms=15, mew=2.2, label=label
            )
            y += 1.0
        y += 0.35
    axes.set_yticks(ticks, names)
    axes.set_ylim(y - 0.35, -1.0)
    axes.margins(x=0.08)
