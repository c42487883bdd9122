"""vitral.workflows.result_cache: a finished cell is kept, a changed or damaged one is
not."""

import pytest

from vitral.errors import ConfigError
from vitral.workflows.result_cache import ResultCache


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"accuracy": 0.25 * self.calls}


def test_a_finished_cell_is_not_repeated(tmp_path):
    result = Counting()
    about = {"weights": "a", "shots": (1, 5)}
    first = ResultCache(tmp_path).get_or_compute("a/knn", about, result)
    again = ResultCache(tmp_path).get_or_compute("a/knn", about, result)
    assert (first.fresh, again.fresh, result.calls) == (True, False, 1)
    assert first.result == again.result == {"accuracy": 0.25}
    assert first.seconds == again.seconds


def test_another_description_is_another_cell(tmp_path):
    cells, result = ResultCache(tmp_path), Counting()
    cells.get_or_compute("one", {"k": 20}, result)
    assert cells.get_or_compute("one", {"k": 10}, result).result == {"accuracy": 0.5}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"about": {}}'])
def test_a_damaged_file_is_computed_anew(tmp_path, damage):
    cells, result = ResultCache(tmp_path), Counting()
    cells.get_or_compute("one", {}, result)
    (tmp_path / "one.json").write_text(damage)
    assert cells.get_or_compute("one", {}, result).fresh


def test_a_failure_leaves_nothing(tmp_path):
    def broken():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        ResultCache(tmp_path).get_or_compute("one", {}, broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../one", "a//b", "."])
def test_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be called"):
        ResultCache(tmp_path).get_or_compute(name, {}, dict)
