"""Compare two classifiers on the same images, overall and per class.

McNemar's exact test (McNemar, Psychometrika 1947); a paired bootstrap of the difference
(Efron and Tibshirani 1993); Holm's correction over the classes (Scandinavian Journal of
Statistics 1979). Only two models and single labels are supported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from vitral.errors import ConfigError, DataError
from vitral.evaluation.intervals import (
    Interval,
    mean_interval,
    percentile_interval,
    wilson,
)
from vitral.evaluation.stored import StoredResult

ALPHA = 0.05
"""Significance level: a difference needs a p below it."""
MIN_DISAGREEMENTS = 6
"""With 5 the smallest possible p of McNemar's test is 2 / 2^5 = 0.0625."""


@dataclass(frozen=True, kw_only=True)
class ClassDelta:
    """Recall of one class, which has images, by both models."""

    name: str
    support: int
    recall_a: float
    recall_b: float
    difference: float
    """B minus A."""
    only_a: int
    """Images that only A classifies correctly."""
    only_b: int
    p: float
    """McNemar's p, before the correction."""
    p_corrected: float
    """After Holm's correction over all classes that have images."""
    differs: bool


@dataclass(frozen=True, kw_only=True)
class Comparison(StoredResult):
    """A and B on the same images; shares are in 0..1, intervals 95 %."""

    KIND = "comparison"

    a: str
    b: str
    """Names of the two models in the verdict."""
    n: int
    accuracy_a: float
    accuracy_a_interval: Interval
    accuracy_b: float
    accuracy_b_interval: Interval
    difference: float
    """Accuracy of B minus that of A."""
    difference_interval: Interval
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    p: float
    """McNemar's exact test, two-sided."""
    distinguishable: bool
    """p < 0.05; nothing else decides."""
    verdict: str
    per_class: tuple[ClassDelta, ...]


def compare(
    a: Int[np.ndarray, " examples"],
    b: Int[np.ndarray, " examples"],
    labels: Int[np.ndarray, " examples"],
    class_names: Sequence[str],
    *,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare the answers of two classifiers, image by image.

    Args:
        a: the class that A answers; -1 for none, which is wrong.
        b: the class that B answers, for the same images in the same order.
        labels: the index of the right class.
        class_names: names of the indices.
        names: of the models, for the verdict.
        resamples: draws of the paired bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: no image, or a label or an answer is not an index of a class.
        ConfigError: `resamples` < 1.
    """
    _check(a, b, labels, class_names)
    right_a, right_b = a == labels, b == labels
    n = len(labels)
    only_a, only_b = _disagreements(right_a, right_b)
    both = int((right_a & right_b).sum())
    difference = (only_b - only_a) / n
    interval = paired_bootstrap(only_a, only_b, n, resamples=resamples, seed=seed)
    p = mcnemar(only_a, only_b)
    return Comparison(
        a=names[0],
        b=names[1],
        n=n,
        accuracy_a=(both + only_a) / n,
        accuracy_a_interval=wilson(both + only_a, n),
        accuracy_b=(both + only_b) / n,
        accuracy_b_interval=wilson(both + only_b, n),
        difference=difference,
        difference_interval=interval,
        both_right=both,
        only_a=only_a,
        only_b=only_b,
        both_wrong=n - both - only_a - only_b,
        p=p,
        distinguishable=p < ALPHA,
        verdict=_verdict(names, n, only_a, only_b, p=p, interval=interval),
        per_class=_per_class(right_a, right_b, labels, class_names),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p that `only_a` and `only_b` differ by chance alone.

    Args:
        only_a: images that A classifies correctly and B does not.
        only_b: the reverse.

    Raises:
        ConfigError: a count is negative.
    """
    from scipy.special import bdtr

    if min(only_a, only_b) < 0:
        raise ConfigError(f"counts must be 0 or more: got {only_a} and {only_b}.")
    total = only_a + only_b
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), total, 0.5)))


def paired_bootstrap(
    only_a: int,
    only_b: int,
    n: int,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the interval of accuracy B minus accuracy A over resampled images.

    Drawing images is equal to drawing the counts of only A, only B, both and neither
    correct, so the counts are drawn at once. Half an image is added to each of the four
    (Agresti and Min, Statistics in Medicine 2005): else two models that agree on every
    image of a small set would have an interval without width.

    Raises:
        ConfigError: counts that do not fit `n`, `resamples` < 1, or `confidence` not
            in (0, 1).
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            "a bootstrap needs one resample or more and a confidence strictly between "
            f"0 and 1: got resamples={resamples}, confidence={confidence}."
        )
    if min(only_a, only_b) < 0 or n < 1 or only_a + only_b > n:
        raise ConfigError(
            "the images that only one gets right must be some of all images: got "
            f"{only_a} and {only_b} of {n}."
        )
    # Both and neither correct change nothing: one count with two halves.
    counts = np.array([only_a + 0.5, only_b + 0.5, n - only_a - only_b + 1.0])
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(n, counts / counts.sum(), size=resamples)
    low, high = percentile_interval((drawn[:, 1] - drawn[:, 0]) / n, confidence)
    # The added images pull towards 0; the measured value stays inside.
    measured = (only_b - only_a) / n
    return Interval(min(low, measured), max(high, measured))


def loss_interval(
    before: Shaped[np.ndarray, " decisions"], after: Shaped[np.ndarray, " decisions"]
) -> Interval:
    """Return the 95 % interval of the points of a mean score lost, by a bootstrap.

    Args:
        before: which decisions are right, or a score of each; `after` likewise, in the
            same order.
    """
    if before.dtype != bool:
        low, high = mean_interval(before - after)
        return Interval(100 * low, 100 * high)
    only_before, only_after = _disagreements(before, after)
    low, high = paired_bootstrap(only_after, only_before, len(before))
    return Interval(100 * low, 100 * high)


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Apply Holm's correction: of those below alpha, none is false with 1 - alpha.

    Raises:
        ConfigError: a p is not in 0..1.
    """
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"each p must lie in 0..1: got {list(p)}.")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return tuple(float(value) for value in corrected)


def _disagreements(
    right_a: Bool[np.ndarray, " examples"], right_b: Bool[np.ndarray, " examples"]
) -> tuple[int, int]:
    return int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())


def _per_class(
    right_a: Bool[np.ndarray, " examples"],
    right_b: Bool[np.ndarray, " examples"],
    labels: Int[np.ndarray, " examples"],
    class_names: Sequence[str],
) -> tuple[ClassDelta, ...]:
    def count_by_class(
        chosen: Bool[np.ndarray, " examples"],
    ) -> Int[np.ndarray, " classes"]:
        return np.bincount(labels[chosen], minlength=len(class_names))

    support = count_by_class(np.ones(len(labels), dtype=bool))
    hits_a, hits_b = count_by_class(right_a), count_by_class(right_b)
    only_a, only_b = (
        count_by_class(right_a & ~right_b),
        count_by_class(right_b & ~right_a),
    )
    present = [int(i) for i in np.flatnonzero(support)]
    p = [mcnemar(int(only_a[i]), int(only_b[i])) for i in present]
    return tuple(
        ClassDelta(
            name=class_names[i],
            support=int(support[i]),
            recall_a=float(hits_a[i] / support[i]),
            recall_b=float(hits_b[i] / support[i]),
            difference=float((only_b[i] - only_a[i]) / support[i]),
            only_a=int(only_a[i]),
            only_b=int(only_b[i]),
            p=raw,
            p_corrected=corrected,
            differs=corrected < ALPHA,
        )
        for i, raw, corrected in zip(present, p, holm(p), strict=True)
    )


def _verdict(
    names: tuple[str, str],
    n: int,
    only_a: int,
    only_b: int,
    *,
    p: float,
    interval: Interval,
) -> str:
    a, b = names
    images = f"{n} image" if n == 1 else f"{n} images"
    span = f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f} points"
    if p < ALPHA:
        better, worse = (b, a) if only_b > only_a else (a, b)
        return (
            f"{better} is better than {worse} on these {images}: "
            f"{abs(only_b - only_a)} more are right ({format_p(p)})."
        )
    if only_a + only_b == 0:
        return (
            f"{a} and {b} are not distinguishable: of these {images} they get the same "
            f"ones right; the difference may be {span}."
        )
    sentence = (
        f"{a} and {b} are not distinguishable on these {images}: only {a} is right on "
        f"{only_a}, only {b} on {only_b} ({format_p(p)}); the difference may be {span}."
    )
    if only_a + only_b < MIN_DISAGREEMENTS:
        sentence += (
            f" Fewer than {MIN_DISAGREEMENTS} images that only one gets right can "
            "never tell two models apart: measure on more images."
        )
    return sentence


def format_p(p: float) -> str:
    """Format as `p = 0.031`, or `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _check(
    a: Int[np.ndarray, " examples"],
    b: Int[np.ndarray, " examples"],
    labels: Int[np.ndarray, " examples"],
    class_names: Sequence[str],
) -> None:
    if len(labels) == 0:
        raise DataError("a comparison needs at least one image: got none.")
    last = len(class_names) - 1
    if labels.min() < 0 or labels.max() > last:
        raise DataError(
            f"a label must be an index of the {last + 1} classes, 0..{last}: got "
            f"{labels.min()} to {labels.max()}."
        )
    for name, answers in (("A", a), ("B", b)):
        if answers.min() < -1 or answers.max() > last:
            raise DataError(
                f"an answer of {name} must be in 0..{last}, or -1 for none: got "
                f"{answers.min()} to {answers.max()}."
            )
