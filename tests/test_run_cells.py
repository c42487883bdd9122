"""vitral.workflows.result_cache: a finished cell is kept, a changed or damaged one is
not."""

import pytest

from vitral.errors import ConfigError
from vitral.workflows.result_cache import Cells


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"accuracy": 0.25 * self.calls}


def test_a_finished_cell_is_not_repeated(tmp_path):
    result = Counting()
    about = {"weights": "a", "shots": (1, 5)}
    first = Cells(tmp_path).compute("a/knn", about, result)
    again = Cells(tmp_path).compute("a/knn", about, result)
    assert (first.fresh, again.fresh, result.calls) == (True, False, 1)
    assert first.result == again.result == {"accuracy": 0.25}
    assert first.seconds == again.seconds


def test_another_description_is_another_cell(tmp_path):
    cells, result = Cells(tmp_path), Counting()
    cells.compute("one", {"k": 20}, result)
    assert cells.compute("one", {"k": 10}, result).result == {"accuracy": 0.5}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"about": {}}'])
def test_a_damaged_file_is_computed_anew(tmp_path, damage):
    cells, result = Cells(tmp_path), Counting()
    cells.compute("one", {}, result)
    (tmp_path / "one.json").write_text(damage)
    assert cells.compute("one", {}, result).fresh


def test_a_failure_leaves_nothing(tmp_path):
    def broken():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Cells(tmp_path).compute("one", {}, broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../one", "a//b", "."])
def test_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be called"):
        Cells(tmp_path).compute(name, {}, dict)
