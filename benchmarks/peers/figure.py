"""Bar chart of each side's speed relative to eager vitral."""

from typing import Any

from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    INK,
    QUIET,
    Plot,
    add_gridlines,
    new_figure,
    style_context,
)

COLORS = {"ours": QUIET, "exact": ACCENT, "peer": CONTRAST}
MEANING = {"exact": "vitral, compiled", "peer": "other libraries"}


def bars(result: dict[str, Any]) -> Plot:
    """Draw a panel per measurement of the forward pass and the training step."""
    cells = [
        (title, cell)
        for part, title in (("inference", "forward"), ("training", "step"))
        for cell in result.get(part, [])
    ]
    columns = min(2, len(cells))
    rows_of_panels = -(-len(cells) // columns)
    max_rows = max(len(_sorted_rows(cell)) for _, cell in cells)
    with style_context():
        figure = new_figure(4.6 * columns, rows_of_panels * (0.9 + 0.27 * max_rows))
        figure.suptitle(
            "Times as fast as vitral in eager torch, float32",
            fontsize=11,
            fontweight="bold",
            color=INK,
            x=0.01,
            ha="left",
        )
        axes_grid = figure.subplots(rows_of_panels, columns, squeeze=False)
        for axes in axes_grid.flat[len(cells) :]:
            axes.set_axis_off()
        for axes, (title, cell) in zip(axes_grid.flat, cells, strict=False):
            _panel(axes, f"{cell['model']} {title}, batch {cell['batch']}", cell)
        handles = [
            axes_grid.flat[0].barh([0], [0], color=COLORS[kind], label=label)
            for kind, label in MEANING.items()
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
    parts = [
        f"{row['name']} {row['ratio']:.2f} at {cell['model']} {title}, batch "
        f"{cell['batch']}"
        for title, cell in cells
        for row in _sorted_rows(cell)
    ]
    return Plot(figure, f"Times as fast as eager vitral: {'; '.join(parts)}.")


def _sorted_rows(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows, the fastest first, without our eager side."""
    rows = [row for row in cell["rows"] if row["kind"] != "ours"]
    return sorted(rows, key=lambda row: -row["ratio"])


def _panel(axes: Any, title: str, cell: dict[str, Any]) -> None:
    rows = _sorted_rows(cell)
    positions = range(len(rows))
    ratios = [row["ratio"] for row in rows]
    axes.barh(
        positions, ratios, color=[COLORS[row["kind"]] for row in rows], height=0.62
    )
    for position, row in zip(positions, rows, strict=True):
        low, high = row["ratio_quartiles"]
        axes.plot([low, high], [position, position], color=INK, lw=1.2)
        # At the foot of the bar, away from the quartiles and the line at 1.
        axes.annotate(
            f"{row['ratio']:.2f}",
            (0, position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color="white",
        )
    axes.axvline(1.0, color=INK, lw=0.9, ls=(0, (3, 2)))
    axes.set_yticks(positions, [row["name"] for row in rows])
    axes.invert_yaxis()
    ends = [max(row["ratio_quartiles"][1], row["ratio"]) for row in rows]
    axes.set_xlim(0, 1.16 * max([1.0, *ends]))
    axes.set_title(title)
    add_gridlines(axes, "x")
