"""What a task that brings nothing of its own gets in report, card and comparison."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reports import check_numbers, report, write_facts, write_run
from vitral import plots
from vitral.document import (
    Answered,
    Fold,
    Heading,
    PageBudget,
    Paragraph,
    PictureSources,
    Section,
    Strong,
    build_gallery,
)
from vitral.document.inspection_store import store
from vitral.document.numbers import significant
from vitral.errors import ConfigError
from vitral.evaluation import Interval
from vitral.report import model_card, write_html
from vitral.report.compare_runs import compare
from vitral.report.load_run import load_run_folder, task_of
from vitral.tasks import Headline, Result, Task, discovery
from vitral.tasks.reporter import ExplainedExample, Reporter
from vitral.workflows.inspect.report_maps import is_current


@dataclass(frozen=True, kw_only=True)
class Count(Result):
    """How far a model is off that counts squares."""

    KIND = "toy-count"

    n: int
    n_unreadable: int
    error: float
    error_interval: Interval
    exact: float
    bias: float | None = None

    def headline(self) -> Headline:
        return Headline(
            field="error",
            name="mean error",
            value=self.error,
            interval=self.error_interval,
            is_share=False,
            higher_is_better=False,
        )

    def scalars(self) -> dict[str, float | int]:
        return {"n": self.n, "error": self.error, "exact": self.exact, "twice": 2.0}

    def monitor_values(self) -> dict[str, float]:
        return {"error": self.error}

    def sentence(self, noun: str) -> str:
        return f"off by {self.error} on {self.n} {noun}"


class Toy(Task):
    name = "toy"
    results = (Count,)


Toy.__abstractmethods__ = frozenset()


class Drawer(Reporter):
    """A reporter of its own that uses each block."""

    def sections(self, run: Any, sources: Any, budget: PageBudget) -> list[Section]:
        answers = [
            Answered(name, "three", [Strong("three"), " <four>"])
            for name in ("a.png", "b.png")
        ]
        gallery = build_gallery(run, answers, sources, budget.pictures)
        blocks = [Heading("Worst"), Paragraph(["So <it> is."], "note"), gallery]
        return [Section(id="errors", title="Errors", blocks=[Fold("more", blocks)])]

    def select_examples(self, run: Any) -> list[ExplainedExample]:
        return [ExplainedExample("a.png", 3)]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    task = Toy()
    packaged = discovery._packaged_tasks
    monkeypatch.setattr(discovery, "_packaged_tasks", lambda: (*packaged(), task))
    discovery.tasks.cache_clear()
    yield task
    discovery.tasks.cache_clear()


def toy_run(folder: Path, error: float = 1.25, n: int = 200) -> Path:
    (folder / "predictions").mkdir(parents=True)
    (folder / "model").mkdir()
    ends = Interval(error - 0.125, error + 0.25)
    result = Count(n=n, n_unreadable=1, error=error, error_interval=ends, exact=0.5)
    text = json.dumps(result.to_dict())
    (folder / "predictions/test.json").write_text(text)
    write_facts(folder, [], {"test": {"images": n}}, [], 0)
    return folder


def test_a_task_is_known_by_its_result(toy, tmp_path):
    assert task_of(load_run_folder(toy_run(tmp_path / "run"))) is toy


def test_the_default_report_has_sentence_and_table(toy, tmp_path):
    run = toy_run(tmp_path / "run")
    page = report(run, tmp_path)
    words = page.words
    assert "Mean error: 1.250 on 200 test images (95 % interval 1.12 to 1.50)." in words
    assert "1 of the test images could not be decoded and counts as wrong." in words
    assert "mean error1.2501.12 to 1.50" in words
    assert "exact0.5000" in words
    assert "twice" not in words  # no number of the JSON, so it has no source
    check_numbers(run, page)
    assert "#run-1-results" in page.links
    assert not {"#run-1-errors", "#run-1-right"} & set(page.links)
    assert "Worst errors" not in words
    assert "Images test 200" in words
    assert "Classes" not in words
    assert "Images per class" not in words


def test_the_default_card_makes_no_classifier_of_it(toy, tmp_path):
    card = model_card(toy_run(tmp_path / "run", n=60))
    assert "A model of images (vit\\_mu16), trained from" in card
    assert "| test | 60 | mean error | 1.250 | 1.12 to 1.50 |" in card
    assert "outputs = model(preprocess(" in card
    assert "- It was measured on 60 images only." in card
    assert "class" not in card


def test_runs_without_single_answers_are_not_tested_in_pairs(toy, tmp_path):
    far = load_run_folder(toy_run(tmp_path / "far", 3.0))
    near = load_run_folder(toy_run(tmp_path / "near", 1.25))
    table = compare([far, near])
    assert table.title == "mean error"
    (remark,) = table.remarks
    assert remark.startswith("far has no table with an answer to each image")
    assert "Their intervals alone cannot tell them apart" in remark
    assert [line["bar"] for line in table.lines] == [None, None]
    close = load_run_folder(toy_run(tmp_path / "close", 1.5))
    (remark,) = compare([close, near]).remarks
    assert remark.startswith("close has no table with an answer to each image")


def test_blocks_become_html(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "reporter", lambda self: Drawer())
    run = toy_run(tmp_path / "run")
    picture = Image.new("RGB", (40, 40), (200, 10, 10))
    page = report(run, tmp_path, images=lambda run, name: picture)
    assert "<strong>three</strong> &lt;four&gt;" in page.html
    assert "So &lt;it&gt; is." in page.html
    assert sum(image["alt"] == "b.png: three" for image in page.images) == 1
    assert "#run-1-errors" in page.links


def test_maps_are_those_that_the_task_selects(toy, tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run")
    assert not is_current(run)
    about = {"split": "test", "method": "rollout", "image_size": [2, 2], "ids": []}
    store(run, about, np.zeros((0, 1, 1)))
    assert is_current(run)
    monkeypatch.setattr(Toy, "reporter", lambda self: Drawer())
    assert not is_current(run)


def test_pictures_stay_within_the_budget(toy, tmp_path):
    run = load_run_folder(toy_run(tmp_path / "run"))
    sources = PictureSources(lambda name: Image.new("RGB", (9, 9)))
    answers = [Answered(f"{i}.png", "x", ["x"]) for i in range(3)]
    whole = build_gallery(run, answers, sources, 10**6)
    size = len(whole.items[0].picture.source)
    cut = build_gallery(run, answers, sources, 2 * size + 1)
    assert [item.picture is not None for item in cut.items] == [True, True, False]
    assert not cut.with_maps


def test_a_result_of_a_task_that_is_not_installed(tmp_path):
    run = toy_run(tmp_path / "run")
    message = r"test\.json: the result is of the kind `toy-count`, which no task"
    with pytest.raises(ConfigError, match=message):
        write_html([run], tmp_path / "out.html")


def test_narrow_screens_get_figures_of_their_own(tmp_path):
    run = write_run(tmp_path / "run", num_classes=40, num_test=300)
    html = write_html([run], tmp_path / "out.html").read_text("utf-8")
    narrow = re.findall(r'<source media="screen and \(max-width: 40rem\)"[^>]*>', html)
    assert len(narrow) == 3  # images per class, curves, confusions
    widths = [int(re.search(r'width="(\d+)"', source)[1]) for source in narrow]
    assert all(width <= 364 for width in widths)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.25, "1.250"),
        (0.000123456, "0.0001235"),
        (12345.6, "12,346"),
        (-20.04, "-20.04"),
        (0.0, "0.000"),
        (None, "–"),
    ],
)
def test_significant_digits(value, text):
    assert significant(value, "").text == text


def test_the_monitored_metric_of_another_task_is_drawn():
    steps = [{"step": i, "loss": 1.0 / i} for i in range(1, 9)]
    measured = [{"step": 4, "loss": 0.5, "r2": 0.25}, {"step": 8, "loss": 0.4, "r2": 1}]
    figure = plots.learning_curves(steps, measured, monitor="r2").figure
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(titles) == ["Loss", "R2"]
    (line,) = titles["R2"].lines
    assert line.get_ydata().tolist() == [0.25, 1.0]
    figure = plots.learning_curves(steps, measured, monitor="loss").figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss"]
