"""Comparisons, risk and learning curves: by hand, against scipy, then simulations."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from vitral.errors import ConfigError, DataError
from vitral.evaluation import (
    Comparison,
    Interval,
    Scaling,
    compare,
    fit_scaling,
    holm,
    mcnemar,
    paired_bootstrap,
    risk_coverage,
    wilson,
)
from vitral.evaluation.paired import compare_pairs

NAMES = ("ant", "bee", "cow", "dog", "eel")


def paired(
    n: int, only_a: float, only_b: float, both: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers of two models, right together as often as is asked for."""
    labels = generator.integers(0, len(NAMES), n)
    wrong = (labels + generator.integers(1, len(NAMES), n)) % len(NAMES)
    kind = generator.choice(4, n, p=[both, only_a, only_b, 1 - both - only_a - only_b])
    a = np.where(np.isin(kind, (0, 1)), labels, wrong)
    b = np.where(np.isin(kind, (0, 2)), labels, wrong)
    return a, b, labels


# McNemar, Holm, the paired bootstrap


@pytest.mark.parametrize(
    ("only_a", "only_b", "by_hand"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 2**5),
        (6, 0, 2 / 2**6),
        # 2 * (1 + 10 + 45) / 1024
        (2, 8, 112 / 1024),
        (4, 4, 1.0),
    ],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, by_hand: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(by_hand, abs=1e-12)


def test_mcnemar_is_the_binomial_test_of_scipy() -> None:
    for only_a, only_b in [(1, 9), (21, 52), (130, 97), (3, 400), (1200, 1290)]:
        expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
        assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
        assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_holm_by_hand() -> None:
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, then 0.04 may not be less than the one before.
    assert holm([0.03, 0.005, 0.04, 0.01]) == pytest.approx((0.06, 0.02, 0.06, 0.03))
    assert holm([0.7, 0.6]) == (1.0, 1.0)
    assert holm([]) == ()


def test_paired_bootstrap_is_a_loop_over_images() -> None:
    n, only_a, only_b = 700, 31, 64
    change = np.zeros(n)
    change[:only_a], change[only_a : only_a + only_b] = -1, 1
    generator = np.random.default_rng(5)
    means = [change[generator.integers(0, n, n)].mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.05, 0.95])
    found = paired_bootstrap(only_a, only_b, n, confidence=0.9)
    assert found == pytest.approx((low, high), abs=0.0025)
    assert high - low > 0.03


def test_paired_bootstrap_keeps_a_width_and_the_measured_value() -> None:
    same = paired_bootstrap(0, 0, 40)
    assert same.low < 0 < same.high
    assert paired_bootstrap(0, 12, 12).high == 1.0
    assert paired_bootstrap(7, 3, 90, seed=1) == paired_bootstrap(7, 3, 90, seed=1)


@pytest.mark.parametrize(
    ("n", "only_a", "only_b"), [(60, 0.05, 0.1), (400, 0.03, 0.01)]
)
def test_paired_interval_covers_the_truth(n: int, only_a: float, only_b: float) -> None:
    generator = np.random.default_rng(8)
    covered = 0
    for trial in range(400):
        a, b, _ = generator.multinomial(n, [only_a, only_b, 1 - only_a - only_b])
        found = paired_bootstrap(int(a), int(b), n, resamples=800, seed=trial)
        covered += found.contains(only_b - only_a)
    assert covered >= 0.92 * 400


# compare


def test_compare_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 3])
    a = np.array([0, 0, 1, 1, 2, 2, -1, 3])
    b = np.array([0, 2, 1, 1, 1, 1, 1, 0])
    result = compare(a, b, labels, NAMES, names=("old", "new"))
    counts = result.both_right, result.only_a, result.only_b, result.both_wrong
    assert counts == (2, 2, 3, 1)
    assert (result.accuracy_a, result.accuracy_b) == (4 / 8, 5 / 8)
    assert result.accuracy_a_interval == wilson(4, 8)
    assert result.accuracy_b_interval == wilson(5, 8)
    assert result.difference == pytest.approx(1 / 8)
    assert result.p == 1.0
    assert [row.name for row in result.per_class] == ["ant", "bee", "dog"]
    bee = result.per_class[1]
    assert (bee.support, bee.only_a, bee.only_b) == (4, 0, 3)
    assert (bee.recall_a, bee.recall_b, bee.difference) == (0.25, 1.0, 0.75)
    assert (bee.p, bee.p_corrected) == (0.25, 0.75)
    assert not bee.differs
    assert result.verdict.startswith("old and new are not distinguishable on these 8 ")
    assert "only old is right on 2, only new on 3 (p = 1)" in result.verdict
    assert "Fewer than 6 images" in result.verdict


def test_compare_finds_the_class_that_differs_and_survives_json() -> None:
    generator = np.random.default_rng(1)
    a, b, labels = paired(500, 0.05, 0.05, 0.8, generator)
    b = np.where(labels == 2, 3, b)
    result = compare(a, b, labels, NAMES)
    assert [row.name for row in result.per_class if row.differs] == ["cow"]
    assert result.distinguishable
    assert result.verdict.startswith("A is better than B on these 500 images: ")
    assert result.difference_interval.high < 0
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["kind"] == "comparison"
    assert Comparison.from_dict(stored) == result


def test_identical_answers_are_not_distinguishable() -> None:
    labels = np.arange(40) % 5
    result = compare(labels, labels, labels, NAMES)
    assert not result.distinguishable
    assert "they get the same ones right" in result.verdict
    low, high = result.difference_interval
    assert low < 0 < high


def test_equal_models_are_called_different_in_at_most_5_percent() -> None:
    generator = np.random.default_rng(2)
    found = [
        compare(*paired(300, 0.08, 0.08, 0.7, generator), NAMES, resamples=50)
        for _ in range(500)
    ]
    assert sum(result.distinguishable for result in found) <= 25
    # Nor may any class be called different more often, all of them together.
    assert sum(any(row.differs for row in r.per_class) for r in found) <= 25


def test_a_gap_of_5_points_is_found_with_1000_images() -> None:
    generator = np.random.default_rng(3)
    found = [
        compare(*paired(1000, 0.05, 0.10, 0.78, generator), NAMES, resamples=50)
        for _ in range(200)
    ]
    right = [result.distinguishable and result.difference > 0 for result in found]
    assert sum(right) >= 180


def test_compare_says_what_does_not_fit() -> None:
    labels = np.array([0, 1, 4])
    none = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="at least one image: got none"):
        compare(none, none, none, NAMES)
    with pytest.raises(DataError, match=r"of the 5 classes, 0\.\.4: got 0 to 5"):
        compare(labels, labels, labels + np.array([0, 0, 1]), NAMES)
    with pytest.raises(DataError, match=r"answer of B must be in 0\.\.4, or -1"):
        compare(labels, labels - 2, labels, NAMES)
    with pytest.raises(ConfigError, match="one resample or more"):
        compare(labels, labels, labels, NAMES, resamples=0)
    with pytest.raises(ConfigError, match="got 3 and 4 of 6"):
        paired_bootstrap(3, 4, 6)
    with pytest.raises(ConfigError, match="0 or more: got -1 and 2"):
        mcnemar(-1, 2)
    with pytest.raises(ConfigError, match=r"each p must lie in 0\.\.1"):
        holm([0.5, 1.5])


# Risk against coverage


def test_risk_coverage_by_hand() -> None:
    confidence = np.array([0.6, 0.9, 0.6, 0.8])
    correct = np.array([False, True, True, False])
    curve = risk_coverage(confidence, correct, unreadable=1)
    assert curve.threshold.tolist() == [0.9, 0.8, 0.6, -np.inf]
    assert curve.coverage == pytest.approx([1 / 5, 2 / 5, 4 / 5, 1])
    assert curve.risk == pytest.approx([0, 1 / 2, 2 / 4, 3 / 5])
    # Among the two of 0.6 half an error comes with each.
    assert curve.area == pytest.approx((0 + 1 / 2 + 1.5 / 3 + 2 / 4 + 3 / 5) / 5)
    assert curve.best_area == pytest.approx((0 + 0 + 1 / 3 + 2 / 4 + 3 / 5) / 5)
    assert curve.excess == pytest.approx(curve.area - curve.best_area)
    assert curve.coverage_at(0.0) == pytest.approx(0.2)
    assert curve.coverage_at(0.5) == pytest.approx(0.8)


def test_risk_does_not_depend_on_the_order_of_equal_confidences() -> None:
    generator = np.random.default_rng(4)
    confidence = generator.integers(0, 6, 83) / 6
    correct = generator.random(83) < 0.2 + 0.7 * confidence
    order = generator.permutation(83)
    first = risk_coverage(confidence, correct)
    second = risk_coverage(confidence[order], correct[order])
    assert first.area == pytest.approx(second.area, abs=1e-12)
    assert first.risk == pytest.approx(second.risk)
    # The mean over all orders, by drawing them.
    areas = []
    for _ in range(600):
        order = generator.permutation(83)
        order = order[np.argsort(-confidence[order], kind="stable")]
        areas.append((np.cumsum(~correct[order]) / np.arange(1, 84)).mean())
    assert first.area == pytest.approx(np.mean(areas), abs=0.002)


def test_risk_of_a_perfect_order_and_of_none() -> None:
    correct = np.array([True] * 7 + [False] * 4)
    assert risk_coverage(np.arange(11, 0, -1.0), correct).excess == pytest.approx(0)
    constant = risk_coverage(np.full(11, 0.5), correct)
    assert constant.area == pytest.approx(4 / 11)
    assert constant.coverage_at(0.1) == 0.0


def test_risk_says_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="at least one example"):
        risk_coverage(np.array([]), np.array([], dtype=bool))
    with pytest.raises(DataError, match="not finite"):
        risk_coverage(np.array([np.nan]), np.array([True]))
    with pytest.raises(ConfigError, match="unreadable must be 0 or more"):
        risk_coverage(np.array([0.5]), np.array([True]), unreadable=-1)
    with pytest.raises(ConfigError, match=r"a risk must lie in 0\.\.1"):
        risk_coverage(np.array([0.5]), np.array([True])).coverage_at(5)


# Learning curves

SIZES = np.repeat([100, 200, 400, 800, 1600], 3)
PLANTED = (0.92, 1.5, 0.45)


def curve(sizes: np.ndarray | float) -> np.ndarray | float:
    a, b, c = PLANTED
    return a - b * sizes**-c


def fitted(right: np.ndarray, seed: int = 0, resamples: int = 300) -> Scaling:
    return fit_scaling(SIZES.tolist(), right.tolist(), seed=seed, resamples=resamples)


def test_scaling_recovers_what_was_planted() -> None:
    fit = fitted(curve(SIZES * 1.0))
    assert (fit.a, fit.b, fit.c) == pytest.approx(PLANTED, rel=1e-5)
    gain = curve(3200.0) - curve(1600.0)
    assert fit.gain == pytest.approx(gain, rel=1e-5)
    assert fit.gain_interval == pytest.approx((gain, gain), rel=1e-3)
    found = fit.predict(6400)
    assert found.accuracy == pytest.approx(curve(6400.0), rel=1e-5)
    assert found.interval == pytest.approx((curve(6400.0),) * 2, rel=1e-3)
    assert found.beyond == 4
    assert fit.trend == "rising"
    assert fit.verdict.startswith(
        "Rising: twice the images (3,200) would add about 1.5"
    )


def test_scaling_90_percent_interval_covers_a_new_measurement() -> None:
    generator = np.random.default_rng(6)
    covered, widths = 0, []
    for trial in range(100):
        noisy = curve(SIZES * 1.0) + 0.008 * generator.standard_normal(len(SIZES))
        interval = fitted(noisy, seed=trial).predict(6400).interval
        new = curve(6400.0) + 0.008 * generator.standard_normal()
        covered += interval.contains(new)
        widths.append(interval.high - interval.low)
    assert 83 <= covered <= 97
    assert np.mean(widths) < 0.06


def test_a_flat_curve_is_called_flat_and_a_steep_one_is_not() -> None:
    generator = np.random.default_rng(7)
    for trial in range(20):
        noise = 0.008 * generator.standard_normal(len(SIZES))
        assert fitted(0.9 + noise, seed=trial).trend == "flat"
        assert fitted(curve(SIZES * 1.0) + noise, seed=trial).trend != "flat"
    flat = fitted(0.9 + noise)
    assert flat.verdict.startswith("Flat: twice the images (3,200) would add 0.")
    assert flat.b >= 0


def test_few_noisy_measurements_are_unclear() -> None:
    fit = fit_scaling([100, 200, 400, 800], [0.60, 0.71, 0.69, 0.78])
    assert fit.trend == "unclear"
    assert "more seeds or sizes would say more" in fit.verdict
    low, high = fit.predict(1600).interval
    assert high - low > 0.1


def test_scaling_intervals_weigh_and_bound_the_noise() -> None:
    sizes = [100, 200, 400, 800, 800]
    right = [*curve(np.array(sizes[:4], dtype=float)), 0.5]
    loose = [wilson(round(1000 * value), 1000) for value in right[:4]]
    fit = fit_scaling(sizes, right, [*loose, Interval(0.0, 1.0)])
    # The last one is known to be worth little, so the curve passes the others.
    assert fit.at(np.array([800.0]))[0] == pytest.approx(right[3], abs=0.01)
    plain = fit_scaling(sizes, right)
    assert plain.at(np.array([800.0]))[0] < right[3] - 0.03
    exact = fit_scaling(sizes[:4], right[:4], loose)
    assert exact.noise > 0.01
    low, high = exact.predict(800).interval
    assert high - low > 0.03


def test_scaling_never_leaves_the_shares() -> None:
    right = [0.5, 0.8, 0.93, 0.985, 0.999]
    fit = fit_scaling([10, 20, 40, 80, 160], right)
    assert fit.a <= 1
    assert fit.b >= 0
    assert 0.9 < fit.predict(10_000).interval.high <= 1
    falling = fit_scaling([10, 20, 40, 80], [0.9, 0.89, 0.88, 0.87])
    assert falling.b == 0
    assert falling.a == pytest.approx(0.885)


def test_scaling_says_what_does_not_fit() -> None:
    right = [0.5, 0.6, 0.7, 0.75]
    with pytest.raises(DataError, match="at least: got 2 and 4"):
        fit_scaling([10, 10, 20, 20], right)
    with pytest.raises(DataError, match="at least: got 3 and 3"):
        fit_scaling([10, 20, 40], right[:3])
    with pytest.raises(DataError, match="got 3 sizes, 4 accuracies"):
        fit_scaling([10, 20, 40], right)
    with pytest.raises(DataError, match="and 1 intervals"):
        fit_scaling([10, 20, 40, 80], right, [wilson(5, 10)])
    with pytest.raises(DataError, match="1 image or more: got 0"):
        fit_scaling([0, 20, 40, 80], right)
    with pytest.raises(DataError, match="divide percentages by 100"):
        fit_scaling([10, 20, 40, 80], [50.0, 60.0, 70.0, 75.0])
    wide = [wilson(round(100 * value), 100) for value in right]
    with pytest.raises(DataError, match=r"0\.7500 is outside of 0\.1"):
        fit_scaling([10, 20, 40, 80], right, [*wide[:3], Interval(0.1, 0.2)])
    with pytest.raises(DataError, match="has no width"):
        fit_scaling([10, 20, 40, 80], right, [*wide[:3], Interval(0.75, 0.75)])
    with pytest.raises(ConfigError, match="flat_below > 0"):
        fit_scaling([10, 20, 40, 80], right, flat_below=0.0)
    with pytest.raises(ConfigError, match="1 image or more"):
        fit_scaling([10, 20, 40, 80], right).predict(0)


# Several models in pairs


def test_pairs_of_shares_are_mcnemars_with_holm() -> None:
    generator = np.random.default_rng(3)
    scores = [generator.uniform(size=300) < share for share in (0.7, 0.75, 0.85)]
    tests = compare_pairs(scores)
    assert [(t.first, t.second) for t in tests] == [(0, 1), (0, 2), (1, 2)]
    p = []
    for test in tests:
        first, second = scores[test.first], scores[test.second]
        only = int((first & ~second).sum()), int((second & ~first).sum())
        assert (test.only_first, test.only_second) == only
        assert test.p == pytest.approx(binomtest(only[0], sum(only)).pvalue)
        assert test.difference == pytest.approx(second.mean() - first.mean())
        p.append(test.p)
    assert [test.p_corrected for test in tests] == list(holm(p))
    assert [test.differs for test in tests] == [c < 0.05 for c in holm(p)]


def test_pairs_of_errors_are_a_bootstrap_of_their_difference() -> None:
    generator = np.random.default_rng(0)
    first = generator.gamma(2.0, size=80)
    second = first - generator.normal(0.1, 0.3, 80)
    [test] = compare_pairs([first, second])
    error = (second - first).std() / np.sqrt(80)
    middle = second.mean() - first.mean()
    # The interval is paired: of the errors alone it would be several times as wide.
    assert test.interval == pytest.approx(
        (middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error
    )
    assert (test.only_first, test.only_second) == (None, None)
    [same] = compare_pairs([first, first.copy()])
    assert (same.p, same.difference, same.differs) == (1.0, 0.0, False)


def test_equal_models_are_seldom_told_apart_by_their_errors(monkeypatch) -> None:
    monkeypatch.setattr("vitral.evaluation.paired.RESAMPLES", 1000)
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        common, own = generator.gamma(2.0, size=60), generator.normal(0, 0.2, (2, 60))
        [test] = compare_pairs([common + own[0], common + own[1]])
        found += test.differs
    assert found <= 20  # 5 % are 10; the bootstrap of 60 images finds a few more


def test_pairs_that_do_not_fit_are_refused() -> None:
    right = np.ones(5, dtype=bool)
    with pytest.raises(ConfigError, match="two models or more: got 1"):
        compare_pairs([right])
    with pytest.raises(DataError, match="got 4 and 5 scores"):
        compare_pairs([right, right[:4]])
    with pytest.raises(DataError, match="at least one image: got 0"):
        compare_pairs([right[:0], right[:0]])
