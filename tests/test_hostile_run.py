"""Files of a stranger in a run folder that `vitral report` reads."""

import json
import random
from pathlib import Path

import pytest

from reports import Reader, write_run
from test_hostile_model import HOSTILE, places, put
from vitral.errors import ConfigError
from vitral.report import model_card, write_html
from vitral.report.load_run import load_run_folder

FILES = ("config.json", "data.json", "model/config.json", "predictions/test.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "three"
    return write_run(folder, num_classes=3, num_test=40, num_val=30)


@pytest.fixture
def file(run: Path, request: pytest.FixtureRequest):
    """Each file of the run, as it was after the test."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    yield run
    for path, content in before.items():
        path.write_bytes(content)


def test_each_wrong_value_is_refused_or_shown(run, tmp_path):
    """Each of 400 is read, and four of them are drawn, which takes a second."""
    chance, problems, read = random.Random(20), [], 0
    for turn in range(400):
        path = run / chance.choice(FILES)
        text = path.read_text()
        document = json.loads(text)
        place, value = chance.choice(list(places(document))), chance.choice(HOSTILE)
        path.write_text(json.dumps(put(document, place, value)))
        try:
            model_card(run)
            read += 1
            if turn % 100 == 0:
                Reader(write_html([run], tmp_path / "report.html").read_text("utf-8"))
        except ConfigError as error:
            if len(str(error)) > 4000:
                problems.append(f"{path.name} {place} {ascii(value)[:40]}: too long")
        except Exception as error:
            name = type(error).__name__
            problems.append(f"{path.name} {place} {ascii(value)[:40]}: {name} {error}")
        finally:
            path.write_text(text)
    assert not problems, "\n".join(problems)
    assert 50 < read < 350


@pytest.mark.parametrize(
    ("name", "key", "value", "sentence"),
    [
        ("data.json", "classes", "zero", r"data.json: `classes` is 'zero', expected a"),
        (
            "data.json",
            "counts",
            {"val": {"a": 1.5}},
            r"`counts.val.a` is 1.5, expected",
        ),
        ("data.json", "sizes", {"train": None}, "`sizes.train` is None, expected a wh"),
        ("data.json", "bad", [["x"]], r"`bad\[0\]` is .'x'., expected an object"),
        (
            "predictions/test.json",
            "top1",
            1e300,
            "`top1` is 1e.300, which is no measur",
        ),
        (
            "predictions/test.json",
            "n",
            [],
            "this is not a stored classification result",
        ),
    ],
)
def test_the_field_is_named(file, tmp_path, name, key, value, sentence):
    path = file / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ConfigError, match=sentence):
        write_html([file], tmp_path / "report.html")


def test_text_that_cannot_be_written_is_replaced(file, tmp_path):
    (file / "command.txt").write_bytes(b"vitral train \xff photos" + b"x" * 10**6)
    path = file / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": "\ud800"}))
    with (file / "metrics.jsonl").open("ab") as lines:
        lines.write(b'\xff\n[[1]]\n{"event": "train", "step": 1e400}\n')
        lines.write(b'{"event": "train", "step": [1]}\n' + b"[" * 10**6 + b"\n")
    page = write_html([file], tmp_path / "report.html").read_text("utf-8")
    assert len(page) < 3_000_000
    words = Reader(page).words
    assert "vitral train \N{REPLACEMENT CHARACTER} photos" in words
    assert words.count("of metrics.jsonl could not be read and was skipped") == 5
    assert "seed ?" in words


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00", "test.csv is not a readable table|is missing"),
        (b"path," + b"x" * 200_000, "is not a readable table .field larger"),
        (
            b"path,label,predicted,confidence,label_probability,rank,correct\n"
            b"a,zero,zero,nan,0.5,1,1\n",
            "line 2 cannot be read .nan is no share from 0 to 1",
        ),
    ],
)
def test_tables_of_answers(file, tmp_path, content, sentence):
    (file / "predictions/test.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        write_html([file], tmp_path / "report.html")


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 500 + "1" + "}" * 500, "NaN"])
def test_documents_without_end(file, text):
    for name in FILES:
        path = file / name
        before = path.read_text()
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"nested too deeply|NaN is no number"):
            load_run_folder(file)
        path.write_text(before)
