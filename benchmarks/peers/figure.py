"""Bars of how many times as fast each side is as eager vitral."""

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
    """A panel for each measurement of the forward pass and of the training step."""
    cells = [
        (title, cell)
        for part, title in (("inference", "forward"), ("training", "step"))
        for cell in result.get(part, [])
    ]
    columns = min(2, len(cells))
    lines = -(-len(cells) // columns)
    most = max(len(_sorted_rows(cell)) for _, cell in cells)
    with style_context():
        figure = new_figure(4.6 * columns, lines * (0.9 + 0.27 * most))
        figure.suptitle(
            "Times as fast as vitral in eager torch, float32",
            fontsize=11,
            fontweight="bold",
            color=INK,
            x=0.01,
            ha="left",
        )
        grid_of = figure.subplots(lines, columns, squeeze=False)
        for axes in grid_of.flat[len(cells) :]:
            axes.set_axis_off()
        for axes, (title, cell) in zip(grid_of.flat, cells, strict=False):
            _panel(axes, f"{cell['model']} {title}, batch {cell['batch']}", cell)
        handles = [
            grid_of.flat[0].barh([0], [0], color=COLORS[kind], label=label)
            for kind, label in MEANING.items()
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
    said = [
        f"{row['name']} {row['ratio']:.2f} at {cell['model']} {title}, batch "
        f"{cell['batch']}"
        for title, cell in cells
        for row in _sorted_rows(cell)
    ]
    return Plot(figure, f"Times as fast as eager vitral: {'; '.join(said)}.")


def _sorted_rows(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Fastest first, without what all are compared with."""
    rows = [row for row in cell["rows"] if row["kind"] != "ours"]
    return sorted(rows, key=lambda row: -row["ratio"])


def _panel(axes: Any, title: str, cell: dict[str, Any]) -> None:
    rows = _sorted_rows(cell)
    places = range(len(rows))
    ratios = [row["ratio"] for row in rows]
    axes.barh(places, ratios, color=[COLORS[row["kind"]] for row in rows], height=0.62)
    for place, row in zip(places, rows, strict=True):
        low, high = row["ratio_quartiles"]
        axes.plot([low, high], [place, place], color=INK, lw=1.2)
        # At the foot of the bar, where neither quartiles nor the line at 1 cross it.
        axes.annotate(
            f"{row['ratio']:.2f}",
            (0, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color="white",
        )
    axes.axvline(1.0, color=INK, lw=0.9, ls=(0, (3, 2)))
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.invert_yaxis()
    ends = [max(row["ratio_quartiles"][1], row["ratio"]) for row in rows]
    axes.set_xlim(0, 1.16 * max([1.0, *ends]))
    axes.set_title(title)
    add_gridlines(axes, "x")
