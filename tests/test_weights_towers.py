"""benchmarks/weights_towers.py: image towers both ways, and their table."""

from pathlib import Path

import pytest
from benchmarks.weights_towers import Tower, make_row, towers

TOWERS = towers()
PAGE = Path(__file__).parents[1] / "docs" / "weights.md"


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's, when it resizes BEiT
@pytest.mark.parametrize("tower", TOWERS, ids=lambda it: it.reference)
def test_a_tower_is_the_same_function_both_ways(tower):
    assert make_row(tower).endswith("| yes |")


def test_the_docs_have_a_row_of_each():
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- towers -->")[2].partition("<!-- end of towers -->")[0]
    rows = [it for it in table.splitlines() if it.startswith("| `")]
    assert len(rows) == len(TOWERS)
    for tower, row in zip(TOWERS, rows, strict=True):
        assert row.startswith(f"| `{tower.layout}` | {tower.reference} | ")
        assert row.endswith("| yes |")


def test_a_difference_beyond_the_limit_is_no_row():
    first = TOWERS[0]
    other = Tower(
        **{name: getattr(first, name) for name in Tower.__slots__}
        | {"ours": lambda model, image: first.ours(model, image) * 1.001}
    )
    with pytest.raises(AssertionError, match="clip_quickgelu"):
        make_row(other)
