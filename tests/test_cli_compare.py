"""`vitral compare`: which tables are read, what is printed, what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from vitral.cli import main
from vitral.errors import ConfigError
from vitral.evaluation import Comparison, mcnemar
from vitral.tasks.classification import read_predictions, write_predictions
from vitral.workflows.evaluate.compare import compare_runs

NAMES = ("ant", "bee", "cow")


def write_run(
    folder: Path,
    answers: np.ndarray,
    labels: np.ndarray,
    *,
    split: str = "test",
    first: int = 0,
    classes: tuple[str, ...] = NAMES,
    unreadable: int = 0,
) -> Path:
    """A run folder with nothing but its table; paths count from `first`."""
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    ids = [f"photos/{first + i:04d}.png" for i in range(len(labels))]
    kept = len(labels) - unreadable
    write_predictions(
        folder / "predictions" / f"{split}.csv",
        ids[:kept],
        3.0 * np.eye(len(classes))[answers[:kept]],
        labels[:kept],
        classes,
        unreadable=list(zip(ids[kept:], labels[kept:].tolist(), strict=True)),
    )
    return folder


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(240) % 3


@pytest.fixture
def pair(tmp_path: Path, labels: np.ndarray, monkeypatch) -> tuple[str, str]:
    """Two runs: B is right on 31 images of cow that A takes for ant, A on 4 of bee."""
    monkeypatch.chdir(tmp_path)
    a, b = labels.copy(), labels.copy()
    cows, bees = np.flatnonzero(labels == 2), np.flatnonzero(labels == 1)
    a[cows[:31]] = 0
    b[bees[:4]] = 0
    a[cows[31:36]] = b[cows[31:36]] = 1
    write_run(Path("old"), a, labels)
    write_run(Path("new"), b, labels)
    return "old", "new"


def test_the_output_has_every_number(pair, capsys) -> None:
    assert main(["compare", *pair]) == 0
    out = capsys.readouterr().out.splitlines()
    # 240 images; A is wrong on 36, B on 9.
    assert out[0].startswith("old   85.0 % of 240 images right (95 % interval ")
    assert out[1].startswith("new   96.2 % of 240 images right (95 % interval ")
    assert out[2].startswith("difference, second less first: +11.2 points (95 % ")
    assert out[3] == (
        "both right 200, only the first 4, only the second 31, neither 5; McNemar's "
        "exact test p < 0.0001"
    )
    assert out[4] == (
        "new is better than old on these 240 images: 27 more are right (p < 0.0001)."
    )
    assert out[5] == "1 of 3 classes differ after Holm's correction:"
    assert out[7].split() == ["cow", "80", "55.0", "%", "93.8", "%", "p", "<", "0.0001"]
    assert out[8:] == ["next: vitral report old new"]
    tables = [f"{name}/predictions/test.csv" for name in pair]
    assert main(["compare", *tables]) == 0
    assert "next:" not in capsys.readouterr().out


def test_json_is_the_result_and_its_tables(pair, capsys) -> None:
    assert main(["compare", *pair, "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert stored["kind"] == "comparison"
    assert stored["tables"] == ["old/predictions/test.csv", "new/predictions/test.csv"]
    assert (stored["split"], stored["only_in_a"], stored["only_in_b"]) == ("test", 0, 0)
    assert stored["p"] == pytest.approx(mcnemar(4, 31))
    assert [row["name"] for row in stored["per_class"] if row["differs"]] == ["cow"]
    low, high = stored["difference_interval"]
    assert low < stored["difference"] == 27 / 240 < high
    result = Comparison.from_dict(compare_runs(*pair).result.to_dict())
    assert result.verdict == stored["verdict"]


def test_close_models_are_not_distinguishable(tmp_path, labels, capsys) -> None:
    a, b = labels.copy(), labels.copy()
    a[:9], b[9:15] = (labels[:9] + 1) % 3, (labels[9:15] + 1) % 3
    one, two = (
        write_run(tmp_path / "a", a, labels),
        write_run(tmp_path / "b", b, labels),
    )
    assert main(["compare", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert "are not distinguishable on these 240 images" in out
    assert "No class differs after Holm's correction over 3 classes." in out


def test_tables_and_runs_and_the_split(pair, labels, capsys) -> None:
    write_run(Path("old"), labels, labels, split="val")
    tables = ["old/predictions/test.csv", "new/predictions/test.csv"]
    of_runs, of_tables = compare_runs(*pair), compare_runs(*tables)
    assert of_tables.result.per_class == of_runs.result.per_class
    assert (of_runs.split, of_tables.split) == ("test", "")
    assert compare_runs("old", tables[1]).result.p == of_runs.result.p
    # Only val is in both.
    Path(tables[1]).unlink()
    write_run(Path("new"), (labels + 1) % 3, labels, split="val")
    assert main(["compare", *pair]) == 0
    out = capsys.readouterr().out
    assert "old is better than new on these 240 images: 240 more are right" in out
    assert "val may have chosen the model of each run" in out


def test_rows_are_matched_by_path_not_by_place(pair) -> None:
    file = Path("new/predictions/test.csv")
    head, *rows = file.read_text().splitlines()
    before = compare_runs(*pair).result
    file.write_text("\n".join([head, *reversed(rows)]) + "\n")
    assert compare_runs(*pair).result == before


def test_unreadable_files_and_foreign_classes_are_wrong(tmp_path, labels) -> None:
    a = write_run(tmp_path / "a", labels, labels, unreadable=10)
    # B knows one class more, in another order, and answers it four times.
    classes = ("yak", "cow", "bee", "ant")
    own = np.array([3, 2, 1])[labels]
    answers = own.copy()
    answers[:4] = 0
    b = write_run(tmp_path / "b", answers, own, classes=classes)
    result = compare_runs(a, b).result
    assert (result.only_a, result.only_b, result.both_right) == (4, 10, 226)
    assert [row.name for row in result.per_class] == ["ant", "bee", "cow"]
    assert sum(not row.correct for row in read_predictions(b / "predictions/test.csv"))


def test_different_images_are_counted_and_too_few_refused(
    tmp_path, labels, capsys
) -> None:
    a = write_run(tmp_path / "a", labels, labels)
    b = write_run(tmp_path / "b", labels[:99], labels[:99], first=210)
    assert main(["compare", str(a), str(b)]) == 0
    assert (
        "do not list the same images: 30 are common and compared, 210 only in "
        in " ".join(capsys.readouterr().out.split())
    )
    c = write_run(tmp_path / "c", labels[:99], labels[:99], first=213)
    assert main(["compare", str(a), str(c)]) == 3
    error = capsys.readouterr().err
    assert "27 are common, of 240 and 99; a comparison needs 30." in error
    assert "vitral eval RUN DATA" in error


def test_few_images_are_compared_when_they_are_the_same(tmp_path, labels) -> None:
    a = write_run(tmp_path / "a", labels[:12], labels[:12])
    b = write_run(tmp_path / "b", (labels[:12] + 1) % 3, labels[:12])
    assert compare_runs(a, b).result.distinguishable


def test_another_label_for_an_image_is_refused(pair, labels, capsys) -> None:
    other = labels.copy()
    other[[5, 8]] = 0
    write_run(Path("new"), labels, other)
    assert main(["compare", *pair]) == 3
    assert (
        "2 of 240 common images have another label, first photos/0005.png: cow in old, "
        "ant in new." in capsys.readouterr().err
    )


def test_an_image_twice_or_without_label_is_refused(pair, capsys) -> None:
    file = Path("new/predictions/test.csv")
    text = file.read_text()
    lines = text.splitlines()
    file.write_text(text + lines[7] + "\n")
    assert main(["compare", *pair]) == 3
    assert "the image photos/0006.png comes twice" in capsys.readouterr().err
    rows = list(csv.reader(lines))
    rows[3][1] = ""
    file.write_text("\n".join(",".join(row) for row in rows) + "\n")
    assert main(["compare", *pair]) == 3
    assert "photos/0002.png has no label" in capsys.readouterr().err
    file.write_text(lines[0] + "\n")
    assert main(["compare", *pair]) == 3
    assert "lists no image" in capsys.readouterr().err


def test_what_is_not_there_is_said(pair, tmp_path, capsys) -> None:
    def error_of(*words: str) -> str:
        assert main(["compare", *words]) == 2
        return capsys.readouterr().err

    assert "nowhere is neither a run folder nor a .csv" in error_of("old", "nowhere")
    assert "no.csv does not exist" in error_of("old", "no.csv")
    assert "Both are old/predictions/test.csv" in error_of("old", "./old")
    assert "It has test: choose with `--split`" in error_of(*pair, "--split", "val")
    Path("empty").mkdir()
    assert "Measure it with `vitral eval empty`" in error_of("old", "empty")
    tables = [f"{name}/predictions/test.csv" for name in pair]
    assert "are tables already. Leave it out" in error_of(*tables, "--split", "val")
    assert "Did you mean --split" in error_of(*pair, "--splt", "val")
    Path("several/predictions").mkdir(parents=True)
    Path("several/predictions/test.json").write_text("{}")
    assert "several labels an image" in error_of("old", "several")


def test_a_damaged_table_is_said(pair, capsys) -> None:
    file = Path("new/predictions/test.csv")
    file.write_bytes(b"path,label\xff\n")
    with pytest.raises(ConfigError, match="is not a readable table"):
        compare_runs(*pair)
    file.write_text("path,label\nphotos/0000.png,ant\n")
    assert main(["compare", *pair]) == 2
    assert "the column 'predicted' is missing" in capsys.readouterr().err
