"""Numbers of a classifier: by hand, against scikit-learn, then properties."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from vitral.errors import ConfigError, DataError, DivergedError
from vitral.evaluation import Interval, bootstrap, wilson
from vitral.tasks.classification import (
    Classification,
    MultiLabel,
    classify,
    ece,
    fit_temperature,
    label_ranks,
    multilabel,
    read_predictions,
    reliability,
    softmax,
    write_predictions,
)

NAMES = ("ant", "bee", "cow", "dog", "eel", "fox", "gnu")


def draw(
    n: int = 211, num_classes: int = 7, seed: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right more often than not, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, n)
    logits = generator.normal(size=(n, num_classes))
    logits[np.arange(n), labels] += 1.5
    return logits, labels


# Intervals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.490162, 0.943318),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (344, 360, 0.929031, 0.972460),
    ],
)
def test_wilson_goldens_and_scipy(
    successes: int, n: int, low: float, high: float
) -> None:
    interval = wilson(successes, n)
    assert interval == pytest.approx((low, high), abs=2e-6)
    independent = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert interval == pytest.approx((independent.low, independent.high), abs=1e-9)


def test_wilson_ends_solve_its_defining_equation() -> None:
    # Wilson's ends are the shares p with |observed - p| = z * sqrt(p (1 - p) / n).
    for successes, n, z, confidence in [
        (3, 17, 1.959964, 0.95),
        (29, 31, 1.644854, 0.9),
    ]:
        for end in wilson(successes, n, confidence):
            distance = abs(successes / n - end)
            assert distance == pytest.approx(
                z * math.sqrt(end * (1 - end) / n), rel=1e-5
            )


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    n, share = 60, 0.83
    covered = sum(
        binom.pmf(k, n, share) for k in range(n + 1) if wilson(k, n).contains(share)
    )
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((11, 10), r"successes must lie in 0\.\.n: got 11 of 10"),
        ((-1, 10), r"successes must lie in 0\.\.n"),
        ((1, 10, 95.0), r"confidence must lie strictly between 0 and 1: got 95"),
    ],
)
def test_wilson_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wilson(*arguments)


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=400)
    interval = bootstrap(lambda drawn: float(values[drawn].mean()), 400, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05)
    again = bootstrap(lambda drawn: float(values[drawn].mean()), 400, seed=1)
    other = bootstrap(lambda drawn: float(values[drawn].mean()), 400, seed=2)
    assert interval == again != other


def test_bootstrap_refuses_nothing() -> None:
    with pytest.raises(ConfigError, match="needs at least one example"):
        bootstrap(lambda drawn: 0.0, 0)


# Classification


def test_classify_by_hand() -> None:
    # Answers a a b b c against labels a b b b a, and one lost file of class c.
    logits = np.log(
        np.array(
            [
                [0.7, 0.2, 0.1],
                [0.6, 0.3, 0.1],
                [0.1, 0.8, 0.1],
                [0.2, 0.5, 0.3],
                [0.3, 0.1, 0.6],
            ]
        )
    )
    result = classify(
        logits, np.array([0, 1, 1, 1, 0]), ("a", "b", "c"), unreadable=[2]
    )
    assert (result.n, result.n_unreadable) == (6, 1)
    assert result.top1 == pytest.approx(3 / 6)
    assert result.top1_interval == wilson(3, 6)
    assert result.top5 is None
    # Recalls 1/2, 2/3, 0/1; F1 2*1/(2+2), 2*2/(3+2), 0/(1+1).
    assert result.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert result.macro_f1 == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert result.nll == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5, 0.3]).mean())
    assert (result.majority, result.majority_class) == (pytest.approx(3 / 6), "b")
    assert result.confusion_matrix().tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]
    lost = result.per_class[2]
    assert (lost.support, lost.unreadable, lost.predicted) == (1, 1, 1)
    assert (lost.recall, lost.precision, lost.f1) == (0, 0, 0)
    # Gaps of five bins with one example each (0.6 and 0.6 share one).
    gaps = [0.3, abs(0.5 * 0 - 0.6) * 2, 0.2, 0.5]
    assert result.ece == pytest.approx(sum(gaps) / 5)


def test_classify_agrees_with_scikit_learn() -> None:
    logits, labels = draw()
    answer = logits.argmax(axis=1)
    result = classify(logits, labels, NAMES, resamples=0)
    assert result.top1 == pytest.approx((answer == labels).mean())
    assert result.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert result.macro_f1 == pytest.approx(f1_score(labels, answer, average="macro"))
    assert tuple(result.monitor_values()) == result.monitors
    assert result.balanced_accuracy == pytest.approx(
        balanced_accuracy_score(labels, answer)
    )
    assert result.nll == pytest.approx(log_loss(labels, softmax(logits)))
    matrix = result.confusion_matrix()
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, answer))
    precision, recall, f1, support = precision_recall_fscore_support(labels, answer)
    assert [row.precision for row in result.per_class] == pytest.approx(precision)
    assert [row.recall for row in result.per_class] == pytest.approx(recall)
    assert [row.f1 for row in result.per_class] == pytest.approx(f1)
    assert [row.support for row in result.per_class] == support.tolist()
    assert result.macro_f1_interval is None


def test_lost_files_count_as_answers_of_no_class() -> None:
    logits, labels = draw()
    lost = [0, 0, 3, 6]
    result = classify(logits, labels, NAMES, unreadable=lost, resamples=0)
    true = np.concatenate([labels, lost])
    answer = np.concatenate([logits.argmax(axis=1), [7] * 4])
    assert result.top1 == pytest.approx((true == answer).mean())
    assert result.macro_f1 == pytest.approx(
        f1_score(true, answer, average="macro", labels=range(7))
    )
    assert result.confusion_matrix().sum() == result.n - 4


def test_a_class_that_is_absent_is_none_and_left_out_of_the_means() -> None:
    logits, labels = draw(40, 6)
    logits = np.insert(logits, 6, -50.0, axis=1)
    result = classify(logits, labels, NAMES, resamples=0)
    absent = result.per_class[6]
    assert (absent.recall, absent.precision, absent.f1) == (None, None, None)
    assert absent.recall_interval == Interval(0.0, 1.0)
    answer = logits.argmax(axis=1)
    assert result.macro_f1 == pytest.approx(f1_score(labels, answer, average="macro"))


def test_ties_go_to_the_lower_index() -> None:
    logits = np.zeros((2, 7))
    assert label_ranks(logits, np.array([0, 6])).tolist() == [1, 7]
    result = classify(logits, np.array([0, 6]), NAMES, resamples=0)
    assert (result.top1, result.top5) == (0.5, 0.5)


def test_bootstrap_intervals_hold_their_number_and_repeat() -> None:
    logits, labels = draw()
    first, again = (classify(logits, labels, NAMES, resamples=200) for _ in range(2))
    assert first == again
    assert first.macro_f1_interval is not None
    assert first.macro_f1_interval.contains(first.macro_f1)
    assert first.balanced_accuracy_interval is not None
    assert first.balanced_accuracy_interval.contains(first.balanced_accuracy)
    assert 0.05 < np.ptp(first.macro_f1_interval) < 0.2


def test_order_of_examples_does_not_matter() -> None:
    logits, labels = draw()
    turn = np.random.default_rng(0).permutation(len(labels))
    one = classify(logits, labels, NAMES, resamples=0)
    two = classify(logits[turn], labels[turn], NAMES, resamples=0)
    assert one.confusion == two.confusion
    assert one.scalars() == pytest.approx(two.scalars())


def test_everything_unreadable_is_a_result_and_not_a_crash() -> None:
    result = classify(np.zeros((0, 7)), np.zeros(0, int), NAMES, unreadable=[1, 1, 4])
    assert (result.top1, result.top1_interval.low) == (0, 0)
    assert result.nll is None
    assert "nll" not in result.scalars()


def test_results_survive_json() -> None:
    logits, labels = draw()
    result = classify(logits.astype(np.float32), labels, NAMES, unreadable=[2])
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert Classification.from_dict(json.loads(text)) == result
    broken = json.loads(text)
    del broken["top1"]
    with pytest.raises(ConfigError, match=r"not a stored classification.*top1"):
        Classification.from_dict(broken)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (np.zeros((0, 7)), np.zeros(0, int), DataError, "the split is empty"),
        (np.zeros((2, 5)), np.zeros(2, int), DataError, "got 5 columns and 7 names"),
        (np.zeros((2, 7)), np.array([0, 7]), DataError, r"in 0\.\.6: got 7"),
        (
            np.array([[0.0] * 7, [math.nan] * 7]),
            np.zeros(2, int),
            DivergedError,
            r"1 of 2 examples are not finite \(first: row 1\)",
        ),
    ],
)
def test_classify_refuses(
    logits: np.ndarray, labels: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        classify(logits, labels, NAMES)


# Calibration


def test_reliability_by_hand() -> None:
    confidence = np.array([0.0, 0.5, 0.5000001, 1.0])
    bins = reliability(confidence, np.array([True, False, True, True]), bins=2)
    assert [row.count for row in bins] == [2, 2]
    assert bins[0].confidence == pytest.approx(0.25)
    assert bins[0].accuracy == 0.5
    assert ece(bins) == pytest.approx(0.5 * 0.25 + 0.5 * 0.25)
    empty = reliability(np.array([0.9]), np.array([True]), bins=2)[0]
    assert (empty.count, empty.confidence, empty.accuracy) == (0, None, None)


def test_a_calibrated_model_has_a_small_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 20_000)
    correct = generator.uniform(size=20_000) < confidence
    assert ece(reliability(confidence, correct)) < 0.012
    assert ece(reliability(confidence, ~correct)) > 0.3


def test_a_planted_temperature_is_found_and_changes_no_answer() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(scale=2.0, size=(8000, 7))
    prob = softmax(logits)
    labels = (prob.cumsum(axis=1) < generator.uniform(size=(8000, 1))).sum(axis=1)
    labels = np.minimum(labels, 6)
    found = fit_temperature(logits * 2.5, labels)
    assert found == pytest.approx(2.5, abs=0.1)
    np.testing.assert_array_equal(
        (logits * 2.5 / found).argmax(axis=1), logits.argmax(axis=1)
    )
    before = classify(logits * 2.5, labels, NAMES, resamples=0)
    after = classify(logits * 2.5 / found, labels, NAMES, resamples=0)
    assert before.ece is not None
    assert after.ece is not None
    assert after.ece < before.ece / 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: reliability(np.array([1.5]), np.array([True])),
            DataError,
            r"must lie in 0\.\.1: got 1\.5",
        ),
        (
            lambda: reliability(np.array([0.5]), np.array([True]), bins=0),
            ConfigError,
            "bins must be at least 1: got 0",
        ),
        (
            lambda: ece(reliability(np.zeros(0), np.zeros(0, bool))),
            DataError,
            "calibration error needs at least one example",
        ),
        (
            lambda: fit_temperature(np.zeros((0, 3)), np.zeros(0, int)),
            DataError,
            "temperature needs at least one example",
        ),
    ],
)
def test_calibration_refuses(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# Several labels an image


def test_multilabel_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    targets = (generator.uniform(size=(83, 5)) < 0.3).astype(int)
    scores = np.clip(targets * 0.3 + generator.uniform(size=(83, 5)) * 0.7, 0, 1)
    result = multilabel(scores, targets, NAMES[:5])
    given = scores >= 0.5
    assert result.mean_average_precision == pytest.approx(
        average_precision_score(targets, scores, average="macro")
    )
    assert result.micro_f1 == pytest.approx(f1_score(targets, given, average="micro"))
    assert result.macro_f1 == pytest.approx(f1_score(targets, given, average="macro"))
    assert result.exact_match == pytest.approx((given == targets).all(axis=1).mean())
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert MultiLabel.from_dict(json.loads(text)) == result
    assert result.scalars()["n"] == 83
    assert tuple(result.monitor_values()) == result.monitors


def test_a_lost_multilabel_file_is_never_an_exact_match() -> None:
    scores, targets = np.array([[0.9, 0.1]]), np.array([[1, 0]])
    result = multilabel(scores, targets, "ab", unreadable=np.array([[0, 0]]))
    assert (result.n, result.n_unreadable, result.exact_match) == (2, 1, 0.5)
    assert result.per_class[1].average_precision is None


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.array([[2.0, 0.0]]), np.array([[1, 0]]), "Apply the sigmoid first"),
        (np.array([[0.5, 0.5]]), np.array([[0, 0]]), "no example carries any label"),
        (np.array([[0.5]]), np.array([[1]]), "got 1 columns and 2 names"),
    ],
)
def test_multilabel_refuses(
    scores: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        multilabel(scores, targets, "ab")


def test_multilabel_from_dict_refuses() -> None:
    with pytest.raises(ConfigError, match="not a stored multi-label result"):
        MultiLabel.from_dict({"kind": "multilabel"})


# The table of predictions


def test_predictions_survive_the_file(tmp_path) -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]]))
    names = ('a "b", c', "b;ü", "c")
    write_predictions(
        tmp_path / "test.csv",
        ["x,1.png", "y/2.png"],
        logits,
        np.array([0, 1]),
        names,
        unreadable=[("z.png", 2)],
    )
    first, second, lost = read_predictions(tmp_path / "test.csv")
    assert first == ("x,1.png", names[0], names[0], 0.7, 0.7, 1, True)
    assert second == ("y/2.png", names[1], "c", 0.5, 0.3, 2, False)
    assert lost == ("z.png", "c", "", None, None, None, False)
    header = (tmp_path / "test.csv").read_text().splitlines()[0]
    assert header.endswith('"p:a ""b"", c",p:b;ü,p:c')


def test_many_classes_have_no_probability_columns(tmp_path) -> None:
    names = [f"class {i}" for i in range(21)]
    write_predictions(
        tmp_path / "v.csv", ["a"], np.zeros((1, 21)), np.array([4]), names
    )
    assert "p:" not in (tmp_path / "v.csv").read_text()
    assert read_predictions(tmp_path / "v.csv")[0].rank == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "the column 'predicted' is missing"),
        (
            "path,label,predicted,confidence,label_probability,rank,correct\n"
            "a,b,c,high,0.5,1,1\n",
            r"v\.csv: line 2 cannot be read",
        ),
    ],
)
def test_broken_predictions_are_named(tmp_path, text: str, message: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_predictions(tmp_path / "v.csv")
