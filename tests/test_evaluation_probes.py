"""Probes of frozen features: by hand, by brute force, against scikit-learn."""

import importlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier

from vitral.errors import ConfigError, DataError
from vitral.evaluation import Probe, choose_l2, fewshot_sweep, wilson
from vitral.evaluation.probes import fewshot, knn, linear
from vitral.evaluation.probes.fewshot import (
    FEWSHOT_L2_GRID,
    Ridge,
    draw_shots,
    fit_fewshot,
)
from vitral.evaluation.probes.linear import LARGE, LinearSolver, dev_rows, fit
from vitral.evaluation.probes.probe import Standardizer, row_slices

PRECISE = LinearSolver(tolerance=1e-9)
LINEAR = importlib.import_module("vitral.evaluation.probes.linear")
"""The module; the room's own name `linear` is the function."""


class Data(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def draw(
    n: int = 90, test: int = 41, dim: int = 11, classes: int = 5, seed: int = 3
) -> Data:
    """Overlapping clouds; the labels have a gap, and features differ in scale."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, dim))
    names = np.delete(np.arange(classes + 1), 2)
    place = np.concatenate(
        [generator.permutation(np.arange(n) % classes), np.arange(test) % classes]
    )
    x = centres[place] + 1.1 * generator.normal(size=(n + test, dim))
    x = x * generator.uniform(0.2, 5, dim) + generator.normal(size=dim)
    return Data(x[:n], names[place[:n]], x[n:], names[place[n:]])


PROTOCOLS: dict[str, Callable[..., Probe]] = {
    "fewshot": lambda *sets: fewshot(*sets, shots=4),
    "linear": lambda *sets: linear(*sets, l2=(0.1, 0.01)),
    "knn": lambda *sets: knn(*sets, k=3),
}
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


# Few-shot: F1 to F7 of the specification


@pytest.mark.parametrize(("n", "dim"), [(50, 16), (20, 64)])
def test_primal_dual_and_eigen_forms_are_equal(n: int, dim: int) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(n, dim)), generator.normal(size=(n, 7))
    ridge = Ridge.decompose(x, y)
    assert len(ridge.eigenvalues) == min(n, dim)
    for l2 in (0.5, 1024.0):
        found = ridge.solve(l2)
        primal = np.linalg.solve(x.T @ x + l2 * np.eye(dim), x.T @ y)
        dual = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(n), y)
        np.testing.assert_allclose(found, primal, atol=1e-12)
        np.testing.assert_allclose(found, dual, atol=1e-12)
        independent = SklearnRidge(alpha=l2, fit_intercept=False).fit(x, y).coef_.T
        np.testing.assert_allclose(found, independent, atol=1e-10)


@pytest.mark.parametrize(
    ("l2", "first", "second"),
    [(1024.0, 0.00275134965, -0.00267798029), (1.0, 0.56569022, -0.55060079)],
)
def test_golden_weights(l2: float, first: float, second: float) -> None:
    x = np.array([[1.0, 0], [0, 1], [2, 1], [1, 3]])
    weight = fit_fewshot(x, np.array([0, 1, 0, 1]))[1].solve(l2)
    np.testing.assert_allclose(weight[:, 0], [first, second, 0], atol=6e-9)
    np.testing.assert_allclose(weight[:, 1], -weight[:, 0], atol=1e-15)


@pytest.mark.parametrize("shots", [1, 4, 15])
def test_fewshot_by_brute_force(shots: int) -> None:
    x, y, x_test, y_test = draw()
    found = fewshot(x, y, x_test, y_test, shots=shots, seed=5, l2=3.0)
    generator = np.random.default_rng(5)
    names = [0, 1, 3, 4, 5]
    rows = np.concatenate(
        [generator.permutation(np.where(y == name)[0])[:shots] for name in names]
    )
    few = x[rows]
    mean = few.sum(0) / len(few)
    deviation = np.sqrt(((few - mean) ** 2).sum(0) / len(few)) + 1e-5
    white = np.c_[(few - mean) / deviation, np.full(len(few), 100.0)]
    target = np.where(y[rows][:, None] == np.array(names), 1.0, -1.0)
    weight = np.linalg.inv(white.T @ white + 3.0 * np.eye(12)) @ white.T @ target
    white_test = np.c_[(x_test - mean) / deviation, np.full(len(x_test), 100.0)]
    expected = np.array(names)[(white_test @ weight).argmax(1)]
    assert found.predicted == tuple(expected)
    right = int((expected == y_test).sum())
    assert 0 < right < len(y_test)
    assert found.accuracy == right / 41
    assert found.interval == wilson(right, 41)
    assert found.n == 41
    assert found.settings == {
        "classes": 5,
        "dim": 11,
        "shots": shots,
        "seed": 5,
        "images": 5 * shots,
        "l2": 3.0,
    }


def test_same_seed_same_shots_and_exactly_as_many_of_each_class() -> None:
    y = draw().y
    rows = draw_shots(y, 6, seed=1)
    np.testing.assert_array_equal(rows, draw_shots(y, 6, seed=1))
    assert set(rows) != set(draw_shots(y, 6, seed=2))
    assert len(set(rows)) == 30
    np.testing.assert_array_equal(np.unique(y[rows], return_counts=True)[1], [6] * 5)
    assert set(draw_shots(y, 2, seed=1)) < set(rows)


def test_separable_features_are_all_right_and_shuffled_labels_are_chance() -> None:
    y = np.arange(7).repeat(60)
    x = np.eye(7)[y]
    assert fewshot(x, y, x, y, shots=5).accuracy == 1.0
    generator = np.random.default_rng(2)
    noise = generator.normal(size=(420, 9))
    shuffled = generator.permutation(y)
    found = fewshot(noise[:210], shuffled[:210], noise[210:], shuffled[210:], shots=10)
    assert abs(found.accuracy - 1 / 7) < 0.08


def test_scale_and_shift_of_a_feature_change_no_answer() -> None:
    x, y, x_test, y_test = draw()
    plain = fewshot(x, y, x_test, y_test, shots=5)
    scale = np.random.default_rng(4).uniform(0.5, 90, 11)
    moved = fewshot(x * scale + 7, y, x_test * scale + 7, y_test, shots=5)
    assert moved.predicted == plain.predicted


def test_the_bias_of_balanced_shots_follows_its_formula() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 16))
    bias = 100 * fit_fewshot(x, np.arange(50) % 5)[1].solve(1024.0)[-1]
    np.testing.assert_allclose(bias, -0.598774, atol=1e-6)
    expected = (2 / 5 - 1) * 50e4 / (50e4 + 1024)
    np.testing.assert_allclose(bias, expected, atol=1e-10)


def test_a_sweep_is_one_fewshot_a_strength() -> None:
    data = draw()
    swept = fewshot_sweep(*data, shots=3, seed=1, l2s=(0.01, 5.0, 1e5))
    for l2, found in zip((0.01, 5.0, 1e5), swept, strict=True):
        assert found == fewshot(*data, shots=3, seed=1, l2=l2)
    assert len({found.predicted for found in swept}) > 1
    assert len(FEWSHOT_L2_GRID) == 30
    assert FEWSHOT_L2_GRID[0] == 2**-10
    assert FEWSHOT_L2_GRID[-1] == 2**19


def test_the_shared_strength_has_the_best_mean_rank() -> None:
    # Ranks 1 3 2, 1 2.5 2.5 and 3 1.5 1.5: means 5/3, 7/3 and 2. The mean of the
    # accuracies would choose the first.
    accuracies = np.array([[0.1, 0.3, 0.2], [0.5, 0.6, 0.6], [0.9, 0.1, 0.1]])
    assert choose_l2(accuracies, (1.0, 4.0, 16.0)) == 4.0
    assert choose_l2(np.array([[0.7, 0.7, 0.2]]), (1.0, 4.0, 16.0)) == 4.0
    with pytest.raises(DataError, match=r"accuracies must be \[data sets, 2 strengths"):
        choose_l2(accuracies, (1.0, 4.0))


# Linear


def objective(flat: np.ndarray, x: np.ndarray, place: np.ndarray, l2: float) -> float:
    """Mean cross-entropy plus l2 / 2 |W|^2, written out; the last row is the bias."""
    matrix = flat.reshape(x.shape[1] + 1, -1)
    logits = x @ matrix[:-1] + matrix[-1]
    if logits.shape[1] == 1:
        logits = np.c_[np.zeros(len(x)), logits]
    odds = np.exp(logits - logits[np.arange(len(x)), place][:, None]).sum(1)
    return float(np.log(odds).mean() + l2 / 2 * (matrix[:-1] ** 2).sum())


@pytest.mark.parametrize("classes", [2, 5])
def test_both_solvers_reach_the_smallest_loss(classes: int) -> None:
    data = draw(classes=classes)
    place = np.unique(data.y, return_inverse=True)[1]
    white = (data.x - data.x.mean(0)) / (data.x.std(0) + 1e-5)
    ours = fit(data.x, place, (0.5, 0.02), LinearSolver(name="sklearn", tolerance=1e-9))
    torchs = fit(data.x, place, (0.5, 0.02), LinearSolver(name="torch", tolerance=1e-9))
    for l2, one, other in zip((0.5, 0.02), ours, torchs, strict=True):
        assert one.converged
        assert other.converged
        start = np.zeros(12 * one.weight.shape[1])
        best = minimize(objective, start, (white, place, l2), tol=1e-12).fun
        for found in (one, other):
            flat = np.r_[found.weight, found.bias[None]].ravel()
            assert objective(flat, white, place, l2) == pytest.approx(best, abs=1e-8)
        np.testing.assert_allclose(other.weight, one.weight, atol=1e-6)
        # The bias of all classes together is free; differences of scores are not.
        scores = [found.scores(data.x_test) for found in (one, other)]
        np.testing.assert_allclose(*(s - s[:, :1] for s in scores), atol=1e-5)


def test_linear_is_scikit_learns_regression_on_whitened_features() -> None:
    x, y, x_test, y_test = draw()
    found = linear(x, y, x_test, y_test, l2=(0.05,), solver=PRECISE)
    mean, scale = x.mean(0), x.std(0) + 1e-5
    # Another solver of scikit-learn than the one that is used inside.
    model = LogisticRegression(C=1 / (0.05 * 90), solver="newton-cg", tol=1e-10)
    model.fit((x - mean) / scale, y)
    assert found.predicted == tuple(model.predict((x_test - mean) / scale))
    assert 0.3 < found.accuracy < 1
    assert found.interval == wilson(round(found.accuracy * 41), 41)
    assert found.settings == {
        "classes": 5,
        "dim": 11,
        "l2": 0.05,
        "images": 90,
        "solver": "sklearn",
        "converged": True,
    }


@pytest.mark.parametrize("seed", [1, 3])
def test_the_strength_is_chosen_on_the_dev_part_and_refitted_on_all(seed: int) -> None:
    # Seed 1: two strengths are equally accurate and the loss decides; seed 3: the most
    # accurate is not the one with the lowest loss.
    x, y, x_test, y_test = draw(n=80, dim=6)
    grid = (1e-3, 0.1, 100.0)
    found = linear(x, y, x_test, y_test, l2=grid, dev=0.3, seed=seed, solver=PRECISE)
    held = dev_rows(np.unique(y, return_inverse=True)[1], 0.3, seed)
    kept = np.setdiff1d(np.arange(80), held)
    best: dict[float, tuple[float, float]] = {}
    for l2 in grid:
        whiten = Standardizer.fit(x[kept])
        model = LogisticRegression(C=1 / (l2 * len(kept)), solver="newton-cg", tol=1e-9)
        model.fit(whiten(x[kept]), y[kept])
        chance = model.predict_proba(whiten(x[held]))
        own = chance[np.arange(len(held)), np.searchsorted(model.classes_, y[held])]
        accuracy = model.score(whiten(x[held]), y[held])
        best[l2] = (accuracy, float(np.log(own).mean()))
    chosen = max(best, key=lambda l2: best[l2])
    assert found.settings["l2"] == chosen == 0.1
    assert found.settings["dev_images"] == len(held)
    assert [row["l2"] for row in found.settings["tried"]] == sorted(grid)[::-1]
    for row in found.settings["tried"]:
        assert row["accuracy"] == pytest.approx(best[row["l2"]][0])
        assert row["loss"] == pytest.approx(-best[row["l2"]][1], abs=1e-6)
    assert found.predicted == linear(x, y, x_test, y_test, l2=(chosen,)).predicted
    part = linear(x[kept], y[kept], x_test, y_test, l2=(chosen,))
    assert found.predicted != part.predicted


def test_the_test_set_chooses_nothing() -> None:
    x, y, x_test, y_test = draw()
    found = linear(x, y, x_test, y_test, l2=(1.0, 0.01))
    turned = linear(x, y, x_test[::-1], np.roll(y_test, 1), l2=(1.0, 0.01))
    assert turned.predicted == found.predicted[::-1]
    assert turned.settings == found.settings


def test_the_dev_part_is_stratified_and_leaves_an_image_behind() -> None:
    place = np.repeat([0, 1, 2, 3], [20, 10, 2, 1])
    rows = dev_rows(place, 0.3, seed=0)
    np.testing.assert_array_equal(np.bincount(place[rows], minlength=4), [6, 3, 1, 0])
    np.testing.assert_array_equal(rows, dev_rows(place, 0.3, seed=0))
    assert set(rows) != set(dev_rows(place, 0.3, seed=1))
    assert np.bincount(place[dev_rows(place, 0.99, 0)]).tolist() == [19, 9, 1]


def test_torch_answers_as_scikit_learn_and_takes_over_above_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert LARGE == 20_000_000
    data = draw()
    ours = linear(*data, l2=(0.1, 0.01))
    monkeypatch.setattr(LINEAR, "LARGE", 90 * 11 - 1)
    singles = data._replace(x=data.x.astype(np.float32))
    for found in (linear(*data, l2=(0.1, 0.01)), linear(*singles, l2=(0.1, 0.01))):
        assert found.settings["solver"] == "torch"
        assert found.settings["converged"]
        assert found.predicted == ours.predicted
    monkeypatch.setattr(LINEAR, "LARGE", 90 * 11)
    assert linear(*data, l2=(0.1,)).settings["solver"] == "sklearn"


@pytest.mark.parametrize("solver", ["sklearn", "torch"])
def test_a_fit_that_was_cut_short_is_told(
    monkeypatch: pytest.MonkeyPatch, solver: Any
) -> None:
    monkeypatch.setattr(LINEAR, "MAX_STEPS", 2)
    assert not linear(*draw(), l2=(1e-4,), solver=LinearSolver(name=solver)).settings[
        "converged"
    ]


# Nearest neighbours


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 1.5)])
def test_knn_is_scikit_learns_with_weights(k: int, temperature: float) -> None:
    x, y, x_test, y_test = draw()
    found = knn(x, y, x_test, y_test, k=k, temperature=temperature)
    model = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    expected = model.fit(x, y).predict(x_test)
    assert found.predicted == tuple(expected)
    assert found.accuracy == (expected == y_test).mean()
    assert found.settings == {
        "classes": 5,
        "dim": 11,
        "k": k,
        "temperature": temperature,
        "images": 90,
    }


def test_knn_by_hand() -> None:
    # Cosines 0.8, 0.6 and 0.6: at a high temperature two votes beat one, at a low one
    # the nearest decides. exp(0.8 / T) = 2 exp(0.6 / T) at T = 0.2 / ln 2 = 0.2885.
    x = np.array([[4.0, 3, 0], [3, 0, 4], [3, 0, -4], [-1, 0, 0]])
    y = np.array([2, 6, 6, 2])
    query, label = np.array([[5.0, 0, 0]]), np.array([6])
    assert knn(x, y, query, label, k=3, temperature=0.28).predicted == (2,)
    assert knn(x, y, query, label, k=3, temperature=0.30).predicted == (6,)
    assert knn(x, y, query, label, k=3, temperature=float("inf")).predicted == (6,)
    assert knn(x, y, query, label, k=3, temperature=1e-6).predicted == (2,)


def test_ties_go_to_the_earlier_image_and_the_lower_class() -> None:
    x = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    y = np.array([5, 3, 3, 4])
    query, label = np.array([[2.0, 0]]), np.array([3])
    assert knn(x, y, query, label, k=1).predicted == (5,)
    assert knn(x, y, query, label, k=2).predicted == (3,)


def test_pieces_change_no_answer_and_hold_no_full_matrix() -> None:
    x, y, x_test, y_test = draw(n=3000, test=1500)
    tracemalloc.start()
    found = knn(x, y, x_test, y_test, k=20, rows_at_once=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 1500 * 8 / 20
    assert found.predicted == knn(x, y, x_test, y_test, k=20).predicted
    few = draw()
    assert knn(*few, k=20, rows_at_once=7) == knn(*few, k=20)
    assert [(p.start, p.stop) for p in row_slices(7, 3)] == [(0, 3), (3, 6), (6, 9)]


# Every protocol


@every_protocol
def test_tensors_and_arrays_of_any_float_are_taken(protocol: str) -> None:
    data = draw()
    halves = [torch.from_numpy(v) for v in data]
    halves[0], halves[2] = halves[0].bfloat16(), halves[2].bfloat16()
    singles = Data(
        halves[0].double().numpy(), data.y, halves[2].double().numpy(), data.y_test
    )
    probe = PROTOCOLS[protocol]
    found = probe(*singles)
    assert probe(*halves) == found
    assert probe(halves[0].float().requires_grad_(), *halves[1:]) == found
    assert found.accuracy > 0.4
    assert found.seconds > 0
    assert found.protocol == protocol


@every_protocol
def test_a_constant_feature_does_no_harm(protocol: str) -> None:
    data = draw()
    constant = data._replace(
        x=np.c_[data.x, np.full(90, 3.0)], x_test=np.c_[data.x_test, np.full(41, 3.0)]
    )
    zeros = data._replace(
        x=np.c_[data.x, np.zeros(90)], x_test=np.c_[data.x_test, np.zeros(41)]
    )
    probe = PROTOCOLS[protocol]
    assert probe(*zeros).predicted == probe(*data).predicted
    found = probe(*constant)
    assert protocol == "knn" or found.predicted == probe(*data).predicted
    nothing = np.zeros_like(data.x), data.y, np.zeros_like(data.x_test), data.y_test
    assert len(set(probe(*nothing).predicted)) == 1


@every_protocol
def test_a_result_survives_json(protocol: str) -> None:
    found = PROTOCOLS[protocol](*draw())
    stored = found.to_dict()
    assert stored["kind"] == "probe"
    assert Probe.from_dict(json.loads(json.dumps(stored))) == found
    with pytest.raises(ConfigError, match="not a stored probe result"):
        Probe.from_dict({"kind": "probe", "n": 3})


def _changed(**changes: Any) -> Data:
    return draw()._replace(**changes)


GOOD = draw()


def _spoilt(table: np.ndarray, row: int, value: float) -> np.ndarray:
    table = table.copy()
    table[row, 4] = value
    return table


@every_protocol
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            _changed(x=GOOD.x[:-1]),
            r"x and y differ in length: got 89 rows of features and 90 labels\. Pass",
        ),
        (
            _changed(y_test=GOOD.y_test[1:]),
            r"x_test and y_test differ in length: got 41 rows of features and 40",
        ),
        (
            _changed(x_test=GOOD.x_test[:, :7]),
            r"differ in width: got 11 and 7 features\. Compute both with the same",
        ),
        (
            _changed(x=GOOD.x[:, :, None]),
            r"x must hold one row of features an image, \[images, dim\]: got the shape "
            r"\(90, 11, 1\)\. Pass what",
        ),
        (
            _changed(x_test=GOOD.x_test[:0], y_test=GOOD.y_test[:0]),
            r"x_test must hold one row of features an image.*\(0, 11\)",
        ),
        (_changed(x=GOOD.x.astype(complex)), r"x must hold real numbers: got complex"),
        (
            _changed(y=np.eye(6)[GOOD.y].astype(int)),
            r"y must hold one label an image.*\(90, 6\)\. Pass class indices, not",
        ),
        (
            _changed(y=GOOD.y.astype(float)),
            r"y must hold whole numbers from 0: got float64",
        ),
        (
            _changed(y_test=np.r_[GOOD.y_test[:6], -1, GOOD.y_test[7:]]),
            r"y_test must hold whole numbers from 0: got -1 in row 6\. Leave",
        ),
        (
            _changed(y_test=np.r_[GOOD.y_test[:4], 2, GOOD.y_test[5:]]),
            r"y_test holds 2 \(row 4\), which no label of y is.*1 of 41 test images"
            r".*Use one class list",
        ),
        (
            _changed(y=np.full(90, 3), y_test=np.full(41, 3)),
            r"y holds one class only \(3\): a probe needs at least two\. Check",
        ),
        (
            _changed(x=_spoilt(_spoilt(GOOD.x, 12, np.nan), 80, np.inf)),
            r"2 of 90 rows of x hold NaN or infinity \(first: row 12\)\. The model",
        ),
        (
            _changed(x_test=_spoilt(GOOD.x_test, 40, -np.inf)),
            r"1 of 41 rows of x_test hold NaN or infinity \(first: row 40\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_told(
    protocol: str, data: Data, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        PROTOCOLS[protocol](*data)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d: fewshot(*d, shots=0), "shots must be at least 1: got 0"),
        (lambda d: fewshot(*d, shots=2, l2=0.0), r"l2 must be above 0: got \[0.0\]"),
        (lambda d: fewshot_sweep(*d, shots=2, l2s=()), r"l2 must be above 0: got \[\]"),
        (lambda d: linear(*d, l2=()), "l2 must hold at least one strength"),
        (lambda d: linear(*d, l2=(1.0, -1.0)), r"each above 0: got \[1.0, -1.0\]"),
        (lambda d: linear(*d, dev=1.0), "dev must lie strictly between 0 and 1: got 1"),
        (
            lambda d: linear(*d, solver=LinearSolver(tolerance=0.0)),
            "tolerance must be above 0: got 0",
        ),
        (lambda d: knn(*d, k=91), r"k must lie in 1\.\.90.*got 91\. Take a smaller"),
        (lambda d: knn(*d, k=0), r"k must lie in 1\.\.90.*got 0"),
        (lambda d: knn(*d, temperature=0.0), "temperature must be above 0: got 0"),
        (lambda d: knn(*d, rows_at_once=0), "rows_at_once must be at least 1: got 0"),
    ],
)
def test_settings_outside_their_range_are_told(
    call: Callable[[Data], Probe], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call(GOOD)


def test_a_class_with_too_few_images_is_told() -> None:
    data = draw()
    few = np.flatnonzero(data.y == 4)[3:]
    x, y = np.delete(data.x, few, 0), np.delete(data.y, few)
    with pytest.raises(
        DataError,
        match=r"class 4 has 3 images in y and 5 shots were asked for \(1 of 5 classes "
        r"have too few\)\. Ask for at most 3 shots",
    ):
        fewshot(x, y, data.x_test, data.y_test, shots=5)


def test_single_images_leave_no_dev_part() -> None:
    data = draw(n=5)
    with pytest.raises(DataError, match=r"every class of y has a single image.*l2="):
        linear(*data)
    assert linear(*data, l2=(0.01,)).n == 41
