"""Regression: labels, loss, metric and answers against scikit-learn and SciPy."""

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.neighbors import KNeighborsRegressor

import vitral.data
from vitral.data import BadFile, Batch, Dataset, SourceFacts
from vitral.errors import ConfigError, DataError, DivergedError
from vitral.evaluation import bootstrap, wilson
from vitral.serve.worker.description import describe_task
from vitral.tasks import AnswerContext, Labels, find_task, get_task, read_result
from vitral.tasks.features import ExtractedFeatures
from vitral.tasks.probe import ProbeInput, ProbeSettings
from vitral.tasks.regression import (
    NumberLabels,
    NumberLoss,
    NumberMetric,
    NumberTarget,
    NumberTargets,
    Regression,
    RegressionConfig,
)
from vitral.tasks.regression.measures import conformal_half_width
from vitral.tasks.regression.metric import NumberTable, measure_numbers
from vitral.tasks.regression.plots import plot_residuals, plot_scatter
from vitral.tasks.regression.probes import RidgePath, knn_mean, ridge

TASK = get_task("regression")
UNIT = NumberLabels(names=("price",), mean=(0.0,), std=(1.0,))


def write_table(folder: Path, text: str, name: str = "labels.csv") -> Path:
    """A table whose images exist: every word that ends in .png."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    for word in text.replace(",", " ").replace('"', " ").split():
        if word.endswith(".png"):
            Image.new("L", (8, 8)).save(folder / word)
    return folder


def open_table(folder: Path, *columns: str, **settings: float) -> Dataset:
    config = RegressionConfig(target=columns)
    facts = SourceFacts(data=str(folder), kind="table")
    names = TASK.columns(config, facts)
    fractions = {"val": 0.0, "test": 0.0, **settings}
    dataset = vitral.data.open(folder, columns=names, **fractions)
    return TASK.read_labels(dataset, config)


def table_of(truth: object, values: object) -> NumberTable:
    rows = [np.asarray(a, np.float64).reshape(len(a), -1) for a in (truth, values)]
    return NumberTable(tuple(f"{i}.png" for i in range(len(rows[0]))), *rows)


def measure(truth: object, values: object, labels: NumberLabels = UNIT) -> Regression:
    table = table_of(truth, values)
    return measure_numbers(table, labels, (), [None] * len(labels.names))


# labels


def test_a_column_of_numbers_with_missing_cells(tmp_path):
    write_table(tmp_path, "path,price\na.png,1\nb.png,\nc.png,3.5\nd.png, -2e1 \n")
    dataset = open_table(tmp_path, "price")
    assert [e.target for e in dataset.examples] == [(1.0,), (None,), (3.5,), (-20.0,)]
    assert dataset.classes == ()
    labels = TASK.labels_of(dataset)
    assert isinstance(labels, NumberLabels)
    present = np.array([1, 3.5, -20])
    assert labels.mean == pytest.approx((present.mean(),), rel=1e-15)
    assert labels.std == pytest.approx((present.std(),), rel=1e-15)
    assert TASK.describe(labels) == "price"
    again = TASK.load_labels(labels.names, json.loads(json.dumps(labels.extra())))
    assert again == labels


def test_json_lines_give_numbers_and_null(tmp_path):
    rows = [{"path": "a.png", "x": 1, "y": 2.5}, {"path": "b.png", "x": None, "y": "3"}]
    text = "\n".join(map(json.dumps, rows))
    write_table(tmp_path, text, "labels.jsonl")
    dataset = open_table(tmp_path, "y", "x")
    assert [e.target for e in dataset.examples] == [(2.5, 1.0), (3.0, None)]


def test_statistics_come_from_train_alone(tmp_path):
    rows = ["a.png,1,train", "b.png,3,train", "c.png,100,val", "d.png,200,test"]
    write_table(tmp_path, "\n".join(["path,target,split", *rows]))
    labels = TASK.labels_of(open_table(tmp_path))
    assert (labels.mean, labels.std) == ((2.0,), (1.0,))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "a.png,1\nb.png,cheap",
            "b.png, line 3, column 'price': expected a number with a decimal point, "
            "got 'cheap'. Correct it, or leave the cell empty for a missing value; a "
            "column of words is for `task=classification`.",
        ),
        ("a.png,1\nb.png,nan", "b.png, line 3, column 'price': 'nan' is not finite."),
        ("a.png,-inf\nb.png,1", "a.png, line 2, column 'price': '-inf' is not finite."),
        ("a.png,\nb.png,", "no row has a value of price. Fill the cells, or name"),
        ("a.png,2\nb.png,2", "The column 'price' is 2 for each of the 2 images of tra"),
        (
            "a.png,2",
            "The column 'price' has a single value in train, 2, and one number",
        ),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(tmp_path, rows, sentence):
    write_table(tmp_path, f"path,price\n{rows}\n")
    with pytest.raises(DataError) as error:
        TASK.labels_of(open_table(tmp_path, "price"))
    assert sentence in str(error.value)


@pytest.mark.parametrize("cell", ["true", "[1, 2]", '{"a": 1}', "1" + "0" * 400])
def test_a_json_value_that_is_no_number_is_refused(tmp_path, cell):
    write_table(tmp_path, f'{{"path": "a.png", "target": {cell}}}', "labels.jsonl")
    with pytest.raises(DataError, match=r"a.png, line 1, column 'target': expected a "):
        open_table(tmp_path)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a.png,,train\nb.png,1,test", "'price' has no value in train, of 1 images"),
        (
            "a.png,1,train\nb.png,2,train\nc.png,,val",
            "val has 1 images and no value of price: nothing can be measured on it.",
        ),
    ],
)
def test_a_split_without_a_value_is_refused(tmp_path, rows, sentence):
    write_table(tmp_path, f"path,price,split\n{rows}\n")
    with pytest.raises(DataError, match=sentence):
        TASK.labels_of(open_table(tmp_path, "price"))


def test_a_source_without_such_a_column_is_refused(tmp_path):
    write_table(tmp_path, "path,price\na.png,1\n")
    with pytest.raises(DataError, match="column 'target' is missing; found path, pri"):
        open_table(tmp_path)
    with pytest.raises(DataError, match="its numbers are probability"):
        vitral.data.open("elpv", columns=TASK.columns(RegressionConfig(), _facts()))


def _facts(*columns: str) -> SourceFacts:
    return SourceFacts(data="x", kind="table", columns=columns)


def test_the_data_asks_for_regression_by_its_column():
    assert TASK.fits(_facts("path", "target")) == "a column target"
    assert TASK.fits(_facts("path", "price")) == ""
    assert get_task("regress") is TASK


@pytest.mark.parametrize(
    ("extra", "outputs", "name"),
    [
        ({}, 1, "regression"),
        ({"problem_type": "regression"}, 3, "regression"),
        ({"problem_type": "multi_label_classification"}, 1, "classification"),
        ({"multi_label": False}, 1, "classification"),
        ({}, 3, "classification"),
    ],
)
def test_which_model_without_a_task_gives_numbers(extra, outputs, name):
    assert find_task(extra, outputs).name == name


def test_a_head_of_another_library_has_no_statistics():
    labels = TASK.load_labels(("LABEL_0",), {"problem_type": "regression"})
    assert isinstance(labels, NumberLabels)
    assert (labels.mean, labels.std) == ((0.0,), (1.0,))
    assert TASK.default_objective(labels, 0.1) == RegressionConfig()
    assert TASK.default_objective(TWO, 0.1) == RegressionConfig(target=("a", "b"))
    with pytest.raises(
        ConfigError, match="has 2 outputs, but 1 `target_mean` and 1 `t"
    ):
        TASK.load_labels(("a", "b"), {"target_mean": [1.0], "target_std": [2.0]})


def test_other_data_needs_as_many_columns(tmp_path):
    write_table(tmp_path, "path,price\na.png,1\nb.png,2\n")
    dataset = open_table(tmp_path, "price")
    assert TASK.align(dataset, UNIT) is dataset
    two = NumberLabels(names=("x", "y"), mean=(0.0, 0.0), std=(1.0, 1.0))
    with pytest.raises(DataError, match="answers 2 numbers, x, y, and the data gives"):
        TASK.align(dataset, two)


# targets


def stack(*rows: tuple[float | None, ...]) -> NumberTarget:
    names = tuple(f"c{i}" for i in range(len(rows[0])))
    return NumberTargets(names).stack((), [], list(rows))


def test_a_batch_of_numbers_keeps_every_digit():
    year = 1_700_000_000.123456
    target = stack((year, None), (0.1, -2.0))
    assert target.present.tolist() == [[True, False], [True, True]]
    assert {field.dtype for field in target} == {torch.float32, torch.bool}
    np.testing.assert_allclose(
        target.to_numpy(), [[year, np.nan], [0.1, -2]], rtol=1e-14
    )


def test_mixing_blends_numbers_that_are_both_there():
    target = stack((1.0, 4.0), (3.0, None))
    targets = NumberTargets(("a", "b"))
    mixed = targets.blend(target, 0.75)
    np.testing.assert_allclose(mixed.to_numpy(), [[1.5, np.nan], [2.5, np.nan]])
    assert targets.blend(target, 1.0) is target


# loss


class Constant(torch.nn.Module):
    """A model that answers one table."""

    def __init__(self, rows: object) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(rows))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.table[: len(image)]


def loss_of(
    config: RegressionConfig, labels: NumberLabels, outputs: object, target: object
) -> dict[str, torch.Tensor]:
    objective = NumberLoss(Constant(outputs), config, labels)
    size = len(target.present)
    batch = Batch(torch.zeros(size, 3, 2, 2), target, tuple(map(str, range(size))))
    return objective(batch)


TWO = NumberLabels(names=("a", "b"), mean=(10.0, 1e9), std=(2.0, 0.5))


@pytest.mark.parametrize(
    ("config", "by_hand"),
    [
        # Standardised targets: 1, -1 and 2; errors: -1, 1 and -5.
        (RegressionConfig(), (1 + 1 + 25) / 3),
        (RegressionConfig(loss="l1"), (1 + 1 + 5) / 3),
        (RegressionConfig(loss="huber"), (0.5 + 0.5 + (5 - 0.5)) / 3),
        (RegressionConfig(loss="huber", huber_delta=2.0), (0.5 + 0.5 + 2 * 4) / 3),
    ],
)
def test_a_loss_counts_the_values_that_are_there(config, by_hand):
    target = stack((12.0, None), (8.0, 1e9 + 1))
    result = loss_of(config, TWO, [[0.0, 7.0], [0.0, -3.0]], target)
    assert result["loss"].item() == pytest.approx(by_hand, rel=1e-6)
    assert result["weight"].item() == 3
    result["loss"].backward()


def test_a_batch_without_a_value_has_no_loss():
    result = loss_of(RegressionConfig(), UNIT, [[3.0]], stack((None,)))
    assert result["loss"].item() == 0
    assert 0 < result["weight"].item() < 1e-30


def test_parts_of_a_batch_add_up():
    rows = [(1.0, 2.0), (None, 1.0), (None, None), (4.0, None)]
    outputs = np.random.default_rng(0).normal(size=(4, 2)).tolist()
    labels = replace(TWO, mean=(0.0, 0.0), std=(1.0, 2.0))
    whole = loss_of(RegressionConfig(), labels, outputs, stack(*rows))
    parts = [
        loss_of(RegressionConfig(), labels, outputs[i : i + 2], stack(*rows[i : i + 2]))
        for i in (0, 2)
    ]
    total = sum(part["loss"] * part["weight"] for part in parts)
    weight = sum(part["weight"] for part in parts)
    torch.testing.assert_close(total / weight, whole["loss"])


def test_settings_and_widths_are_checked():
    with pytest.raises(ConfigError, match="names a column twice"):
        RegressionConfig(target=("a", "a"))
    with pytest.raises(ConfigError, match="huber_delta"):
        RegressionConfig(huber_delta=0.0)
    with pytest.raises(
        ConfigError, match=r"\(1, 2\) and the targets have shape \(1, 1"
    ):
        loss_of(RegressionConfig(), UNIT, [[1.0, 2.0]], stack((1.0,)))


# metric


def random_numbers(n: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    truth = generator.normal(50, 3, n)
    values = truth + generator.normal(0, 2, n)
    return (truth.round(), values.round()) if ties else (truth, values)


@pytest.mark.parametrize("ties", [False, True])
def test_the_numbers_are_those_of_scikit_learn_and_scipy(ties):
    truth, values = random_numbers(200, ties)
    result = measure(truth, values)
    for name, expected in {
        "mae": mean_absolute_error(truth, values),
        "rmse": root_mean_squared_error(truth, values),
        "r2": r2_score(truth, values, force_finite=False),
        "spearman": spearmanr(truth, values).statistic,
    }.items():
        assert getattr(result, name) == pytest.approx(expected, rel=1e-12), name


def test_intervals_are_those_of_the_bootstrap():
    truth, values = random_numbers(60, ties=True)
    result = measure(truth, values)
    r2 = bootstrap(lambda rows: r2_score(truth[rows], values[rows]), 60)
    assert result.r2_interval == pytest.approx(r2, rel=1e-10)
    rank = bootstrap(lambda rows: spearmanr(truth[rows], values[rows]).statistic, 60)
    assert result.spearman_interval == pytest.approx(rank, rel=1e-10)
    mae = bootstrap(lambda rows: float(np.abs(truth - values)[rows].mean()), 60)
    assert result.mae_interval == pytest.approx(mae, rel=1e-10)


def test_intervals_of_two_thousand_images_take_a_second():
    truth, values = random_numbers(2000, ties=False)
    started = time.process_time()
    measure(truth, values)
    assert time.process_time() - started < 2


def test_what_is_undefined_is_null():
    constant = measure([0.1] * 7, np.arange(7.0))
    assert (constant.r2, constant.r2_interval, constant.spearman) == (None, None, None)
    assert constant.mae == pytest.approx(20.5 / 7)
    assert constant.monitor_values()["r2"] == 1 - constant.loss
    single = measure([3.0], [4.0])
    assert (single.r2, single.spearman) == (None, None)
    assert (single.mae, single.rmse) == (1, 1)
    assert "R2 undefined on 1 images, mean absolute error 1" in single.sentence(
        "images"
    )
    assert json.loads(json.dumps(single.to_dict(), allow_nan=False))["r2"] is None
    assert measure([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]).spearman is None


def test_columns_are_measured_each_where_it_has_values():
    truth = np.array([[1, 10], [2, np.nan], [4, 30], [np.nan, 20]])
    values = np.array([[1.5, 11], [2, 0], [3, 26], [0, 22]])
    labels = NumberLabels(names=("a", "b"), mean=(0.0, 0.0), std=(1.0, 10.0))
    result = measure(truth, values, labels)
    a, b = result.columns
    assert (a.name, a.n, b.name, b.n) == ("a", 3, "b", 3)
    assert (a.mae, b.mae) == pytest.approx((0.5, 7 / 3))
    r2 = [r2_score([1, 2, 4], [1.5, 2, 3]), r2_score([10, 30, 20], [11, 26, 22])]
    assert (a.r2, b.r2) == pytest.approx(r2)
    assert result.r2 == pytest.approx(np.mean(r2))
    assert result.loss == pytest.approx((0.25 + 1 + 0.01 + 0.16 + 0.04) / 6)
    (heading, *rows) = result.lines("test")
    assert heading.split() == [
        *("column", "values", "R2", "MAE", "RMSE", "Spearman", "mean:", "MAE")
    ]
    assert [row.split()[0] for row in rows] == ["a", "b"]


def test_an_unreadable_file_counts_as_the_mean():
    labels = NumberLabels(names=("price",), mean=(10.0,), std=(2.0,))
    bad = [BadFile(path="b.png", reason="cut", split="test", target=(16.0,))]
    result = measure_numbers(table_of([8.0, 12.0], [8.0, 12.0]), labels, bad, [1.0])
    assert (result.n, result.n_unreadable) == (3, 1)
    assert result.mae == pytest.approx(6 / 3)
    assert result.baseline_mae == pytest.approx((2 + 2 + 6) / 3)
    assert result.baseline_rmse == pytest.approx(np.sqrt((4 + 4 + 36) / 3))
    assert result.r2 == pytest.approx(r2_score([8, 12, 16], [8, 12, 10]))
    assert result.columns[0].coverage == 1  # of readable ones


def test_nothing_to_measure_and_diverged_answers_are_refused():
    with pytest.raises(DataError, match="none of 1 examples has a value of price"):
        measure([np.nan], [1.0])
    with pytest.raises(
        DivergedError, match="the answers for 1 of 2 examples are not f"
    ):
        measure([1.0, 2.0], [1.0, np.inf])


def test_the_result_is_read_back():
    result = measure(*random_numbers(30, ties=False))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["kind"] == "regression"
    assert read_result(plain) == result
    headline = result.headline()
    assert headline.require() == (result.r2, result.r2_interval)
    assert plain[headline.field] == headline.value
    assert not headline.is_share
    assert tuple(result.monitor_values()) == result.monitors
    with pytest.raises(ConfigError, match=r"'accuracy'.*one of loss, mae, r2, rmse"):
        result.check_monitor("accuracy")
    assert {"loss", "mae", "rmse"} == TASK.lower_is_better


# intervals


@pytest.mark.parametrize(
    ("n", "rank"), [(8, None), (9, 9), (10, 10), (19, 18), (99, 90)]
)
def test_the_half_width_is_an_order_statistic(n, rank):
    errors = np.random.default_rng(n).permutation(np.arange(1.0, n + 1)) * -1
    assert conformal_half_width(errors) == rank


def batch_of(truth: np.ndarray) -> Batch:
    names = tuple(f"{i}.png" for i in range(len(truth)))
    return Batch(torch.zeros(len(truth), 1, 1, 1), stack(*((t,) for t in truth)), names)


def test_intervals_are_fitted_on_val_and_measured_elsewhere():
    labels = NumberLabels(names=("price",), mean=(100.0,), std=(10.0,))
    generator = np.random.default_rng(1)
    results: dict[str, Regression] = {}
    for split in ("val", "test"):
        truth = generator.normal(100, 10, 400)
        metric = NumberMetric(labels)
        outputs = (truth - 100) / 10 + generator.normal(0, 0.3, 400)
        # The order of batches does not matter.
        for index in (1, 0):
            rows = slice(index * 200, index * 200 + 200)
            half = torch.tensor(outputs[rows, None], dtype=torch.float32)
            metric.update(index, half, batch_of(truth[rows]))
        results[split] = metric.result((), split=split, val=results.get("val"))
    (val,), (test,) = results["val"].columns, results["test"].columns
    assert results["val"].calibration() == {
        "interval_half_width": [val.interval_half_width]
    }
    assert val.interval_half_width == pytest.approx(1.645 * 3, rel=0.1)
    assert (val.coverage, test.interval_half_width) == (None, val.interval_half_width)
    assert test.coverage == pytest.approx(0.9, abs=0.04)
    covered = round(test.coverage * 400)
    assert test.coverage_interval == wilson(covered, 400)
    (line,) = results["test"].lines("test")
    assert line.startswith("90 % interval of price: answer ± ")
    assert f"it holds {100 * test.coverage:.1f} % of the numbers here" in line
    assert "it holds" not in results["val"].lines("val")[0]


@pytest.mark.parametrize(
    ("n", "sentence"),
    [
        (
            8,
            "no 90 % interval of price: val has 8 numbers of it, and 9 are needed",
        ),
        (
            9,
            "90 % interval of price: answer ± 1, fitted on val: on 9 numbers only, so "
            "it may hold 66 to 100 % of new ones",
        ),
        (100, "90 % interval of price: answer ± 1, fitted on val"),
    ],
)
def test_an_interval_from_few_numbers_says_so(n, sentence):
    labels = NumberLabels(names=("price",), mean=(0.0,), std=(1.0,))
    metric = NumberMetric(labels)
    metric.update(0, torch.ones(n, 1), batch_of(np.arange(n) % 2.0))
    val = metric.result((), split="val")
    test = metric.result((), split="test", val=val)
    assert (val.fitted_lines(), test.fitted_lines()) == ([sentence], [sentence])


def test_a_handful_of_val_does_not_choose_the_penalty():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5]) + generator.normal(0, 0.01, 200)

    def features(rows, numbers):
        return ExtractedFeatures(
            x=torch.from_numpy(x[rows]),
            y=torch.zeros(len(numbers), dtype=torch.int64),
            targets=tuple((number,) for number in numbers),
            ids=tuple(map(str, range(len(numbers)))),
            bad=(),
        )

    contrary = features(slice(0, 2), [50.0, 50.0])
    given = [None, contrary]
    l2 = [
        TASK.probe(
            "linear",
            ProbeInput(
                train=features(slice(0, 150), y[:150]),
                test=features(slice(150, 200), y[150:]),
                dev=dev,
            ),
            ProbeSettings(),
        )[0].settings["l2"]
        for dev in given
    ]
    assert l2[0] == l2[1]


# answers and files


def test_an_answer_is_in_the_units_of_the_table():
    labels = NumberLabels(names=("price",), mean=(100.0,), std=(10.0,))
    stored = {"interval_half_width": [2.5]}
    context = AnswerContext(labels=labels, metadata=stored)
    (answer,) = TASK.decode(torch.tensor([[0.5]]), context)
    assert answer.row() == {"value": 105.0, "low": 102.5, "high": 107.5}
    assert set(TASK.row_types(labels)) == set(answer.row())
    (answer,) = TASK.decode(torch.tensor([[0.5]]), AnswerContext(labels=labels))
    assert answer.row() == {"value": 105.0, "low": None, "high": None}
    assert answer.is_finite()


def test_several_columns_are_named():
    context = AnswerContext(labels=TWO, metadata={"interval_half_width": [None, 1.0]})
    (answer,) = TASK.decode(torch.tensor([[1.0, 2.0]]), context)
    assert answer.row() == {
        "a.value": 12.0,
        "a.low": None,
        "a.high": None,
        "b.value": 1e9 + 1,
        "b.low": 1e9,
        "b.high": 1e9 + 2,
    }
    assert list(TASK.row_types(TWO)) == list(answer.row())


def test_the_table_of_predictions_has_a_row_a_file(tmp_path):
    labels = NumberLabels(names=("price",), mean=(0.0,), std=(1.0,))
    metric = NumberMetric(labels)
    metric.update(0, torch.tensor([[1.5], [2.0]]), batch_of(np.array([1.0, np.nan])))
    bad = [BadFile(path="x.png", reason="cut", split="test", target=(7.0,))]
    result = measure_numbers(metric.table(), labels, bad, [0.25])
    metric.write(tmp_path, "test", result, bad)
    with (tmp_path / "test.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "target", "value", "low", "high", "error"],
        ["0.png", "1", "1.5", "1.25", "1.75", "0.5"],
        ["1.png", "", "2", "1.75", "2.25", ""],
        ["x.png", "7", "", "", "", ""],
    ]


def test_scores_are_r2_against_the_mean_of_train():
    labels = NumberLabels(names=("a",), mean=(10.0,), std=(2.0,))
    outputs = np.array([[1.0], [0.0], [9.0]], np.float32)
    target = stack((12.0,), (14.0,), (None,))
    scores = TASK.score(outputs, target, labels)
    assert scores.tolist() == [1.0, -3.0]
    others = outputs + np.array([[0.005], [0.02], [-0.009]], np.float32)
    assert TASK.agreement(outputs, others, labels).tolist() == [[True], [False], [True]]
    views = [torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    assert TASK.average(views, labels).tolist() == [[1.5]]


def test_a_plan_has_labels_without_statistics():
    model = Constant([[0.0, 0.0], [0.0, 0.0]])
    context = _objective_context(Labels(names=("0", "1")))
    objective = TASK.build_objective(RegressionConfig(), model, context)
    target = TASK.dummy_target(2, 2)
    result = objective(Batch(torch.zeros(2, 3, 4, 4), target, ("a", "b")))
    assert set(result) == {"loss", "weight"}


def _objective_context(labels: Labels) -> object:
    from vitral.data import Preprocess
    from vitral.tasks import ObjectiveContext

    preprocess = Preprocess(image_size=(4, 4))
    return ObjectiveContext(preprocess=preprocess, names=(), labels=labels)


# probes


def random_features(n: int, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    x = generator.normal(1, 2, (n, dim))
    y = x[:, 0] * 3 - x[:, 1] + generator.normal(0, 1, n) + 40
    return x, y


@pytest.mark.parametrize("l2", [0.5, 64.0])
def test_ridge_is_that_of_scikit_learn(l2):
    (x, y), (x_test, _) = random_features(40), random_features(15)
    path = RidgePath(x, y)
    expected = Ridge(alpha=l2).fit(x, y).predict(x_test)
    np.testing.assert_allclose(path.predict(x_test, l2), expected, rtol=1e-10)
    errors = []
    for row in range(40):
        rest = np.arange(40) != row
        left_out = Ridge(alpha=l2).fit(x[rest], y[rest]).predict(x[row : row + 1])
        errors.append((left_out[0] - y[row]) ** 2)
    assert path.loo_error(l2) == pytest.approx(np.mean(errors), rel=1e-8)


def test_val_chooses_the_strength():
    (x, y), (x_test, _) = random_features(30), random_features(15)
    same, opposite = (x, y), (x, 2 * y.mean() - y)
    assert ridge(x, y, x_test, same, (0.1, 1e6)).l2 == 0.1
    assert ridge(x, y, x_test, opposite, (0.1, 1e6)).l2 == 1e6
    assert ridge(x, y, x_test, None, (0.1, 1e6)).l2 == 0.1


@pytest.mark.parametrize("rows_at_once", [4, 100])
def test_neighbours_are_those_of_scikit_learn(rows_at_once):
    (x, y), (x_test, _) = random_features(40), random_features(15)
    reference = KNeighborsRegressor(3, metric="cosine", algorithm="brute").fit(x, y)
    found = knn_mean(x, y, x_test, 3, rows_at_once)
    np.testing.assert_allclose(found, reference.predict(x_test))
    with pytest.raises(ConfigError, match=r"k must lie in 1..40, .* got 41. Take a sm"):
        knn_mean(x, y, x_test, 41)


def extracted(n: int, *, gaps: bool = False) -> ExtractedFeatures:
    x, y = random_features(n)
    targets = [(None if gaps and i % 3 == 0 else float(v),) for i, v in enumerate(y)]
    return ExtractedFeatures(
        x=torch.tensor(x, dtype=torch.float32),
        y=torch.zeros(n, dtype=torch.int64),
        targets=tuple(targets),
        ids=tuple(map(str, range(n))),
        bad=(),
    )


def test_a_probe_measures_numbers():
    sets = ProbeInput(train=extracted(60, gaps=True), test=extracted(30))
    (linear,) = TASK.probe("linear", sets, ProbeSettings())
    (near,) = TASK.probe("knn", sets, ProbeSettings(k=5))
    assert linear.to_dict()["r2"] > 0.9 > near.to_dict()["r2"] > 0
    assert linear.to_dict()["what"] == "linear"
    assert linear.to_dict()["settings"]["l2"][0] > 0
    assert str(near).startswith("5 neighbours     R2 ")
    with pytest.raises(ConfigError, match="numbers have none: take `protocol=linear`"):
        TASK.probe("fewshot", sets, ProbeSettings())


# documents


def test_figures_say_what_they_show():
    truth, values = np.array([1.0, 2, 4]), np.array([1.5, 2, 3])
    scatter = plot_scatter(truth, values, "price", 0.7)
    assert scatter.alt == (
        "Scatter of 3 images: answers from 1.5 to 3 over numbers of price from 1 to 4, "
        "90 % interval of ± 0.7."
    )
    (axes,) = scatter.figure.axes
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), values)
    residuals = plot_residuals(truth, values, "price")
    assert residuals.alt.endswith("from -1 to 0.5, on average -0.1667 (the line).")
    (axes,) = residuals.figure.axes
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), values - truth)


def test_a_server_knows_the_fields():
    labels = replace(UNIT, mean=(3.0,))
    shown = TASK.present(labels, {"interval_half_width": [0.5]})
    assert list(shown.fields) == list(TASK.row_types(labels))
    assert (shown.display.title, shown.display.interval) == ("value", ("low", "high"))
    facts = {name: fact.value for name, fact in shown.facts.items()}
    assert facts == {
        "outputs": ["price"],
        "target_mean": [3.0],
        "target_std": [1.0],
        "interval_half_width": [0.5],
    }
    low = describe_task(shown)["Answer"]["low"]
    assert {kind["type"] for kind in low["anyOf"]} == {"number", "null"}
    assert TASK.present(TWO, {}).display.title == ""
