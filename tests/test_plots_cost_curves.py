"""Growth of costs: what is drawn where, and what cannot be drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from figures import texts
from vitral import plots
from vitral.errors import DataError

MEMORY = plots.CostPanel(
    "Memory",
    "MiB",
    {
        "joint": plots.CostCurve([2, 4, 8], [30.0, 120.0, 1480.0]),
        "divided": plots.CostCurve([2, 4, 8], [40.0, 80.0, 160.0]),
    },
)
RATIO = plots.CostPanel(
    "Ratio",
    "joint / divided",
    {"joint": plots.CostCurve([4, 16], [0.5, 9.25])},
    level=1.0,
)


def test_each_panel_draws_its_lines_and_its_level() -> None:
    plot = plots.cost_growth(
        [MEMORY, RATIO], axis="frames", verdict="Divided is cheaper."
    )
    left, right = plot.figure.axes
    for axes in (left, right):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlabel() == "frames"
    assert [axes.get_ylabel() for axes in (left, right)] == ["MiB", "joint / divided"]
    drawn = [np.stack(line.get_data()) for line in left.lines]
    np.testing.assert_array_equal(drawn[0], [[2, 4, 8], [30, 120, 1480]])
    np.testing.assert_array_equal(drawn[1], [[2, 4, 8], [40, 80, 160]])
    assert list(left.get_xticks()) == [2, 4, 8]
    assert list(right.get_xticks()) == [4, 16]
    assert [list(line.get_ydata()) for line in right.lines] == [[0.5, 9.25], [1, 1]]
    assert right.lines[0].get_color() == left.lines[0].get_color()
    assert left.lines[1].get_color() != left.lines[0].get_color()
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["joint", "divided"]
    assert "Divided is cheaper." in texts(plot)
    assert plot.alt == (
        "Memory (MiB), frames joint 30 at 2 and 1,480 at 8, divided 40 at 2 and 160 "
        "at 8; Ratio (joint / divided), frames joint 0.5 at 4 and 9.25 at 16. Divided "
        "is cheaper."
    )


def test_the_same_lines_give_the_same_bytes() -> None:
    first, second = (plots.cost_growth([RATIO], axis="frames") for _ in range(2))
    assert plots.to_svg(first.figure) == plots.to_svg(second.figure)
    png = plots.to_png(first.figure, 72)
    assert Image.open(io.BytesIO(png)).width > 300


def panel(sizes, costs) -> plots.CostPanel:
    return plots.CostPanel("Time", "s", {"axial": plots.CostCurve(sizes, costs)})


@pytest.mark.parametrize(
    ("panels", "sentence"),
    [
        ([], "has 1 to 4 panels: got 0"),
        ([RATIO] * 5, "has 1 to 4 panels: got 5"),
        ([plots.CostPanel("Time", "s", {})], "there is no line to draw: `Time`"),
        ([panel([2, 4], [1.0])], "axial must have a cost for each size: got 1, not 2"),
        ([panel([4, 2], [1.0, 2.0])], r"sizes of axial must rise .* above 0: got 4, 2"),
        ([panel([0, 2], [1.0, 2.0])], r"must rise from above 0: got 0, 2\."),
        ([panel([2, 4], [0.0, 2.0])], "must be above 0: axial has 0"),
        (
            [
                plots.CostPanel(
                    "Time", "s", {str(i): plots.CostCurve([1], [1]) for i in range(7)}
                )
            ],
            "shows at most 6 names: got 7",
        ),
    ],
)
def test_what_cannot_be_drawn(panels, sentence) -> None:
    with pytest.raises(DataError, match=sentence):
        plots.cost_growth(panels, axis="frames")
