"""Common parts of the probes of frozen features: result, checks, whitening.

A probe learns from features and labels of one set and predicts those of another.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.errors import DataError
from vitral.evaluation.intervals import Interval, wilson
from vitral.evaluation.stored import StoredResult

Table = Shaped[Any, "..."]
"""NumPy array or tensor of any device; `validate` checks its shape."""

ROWS_AT_ONCE = 4096
"""Test images that are scored together; bounds the memory, not the answer."""


@dataclass(frozen=True, kw_only=True)
class Probe(StoredResult):
    """Result of one protocol on one test set."""

    KIND = "probe"

    protocol: str
    n: int
    """Test images."""
    accuracy: float
    """Share of correct answers, 0..1."""
    interval: Interval
    """Wilson's 95 % interval of the accuracy over test images."""
    predicted: tuple[int, ...]
    """Predicted class of each test image, in their order."""
    settings: dict[str, Any]
    """Plain data: the given settings, and those that the protocol chose."""
    seconds: float = field(compare=False)
    """Seconds from the features to the predictions."""

    def with_unread(self, count: int) -> "Probe":
        """Return the result with `count` more test images, which are wrong answers.

        An image that cannot be read has no features, and no entry in `predicted`.
        """
        n, correct = self.n + count, round(self.accuracy * self.n)
        return replace(self, n=n, accuracy=correct / n, interval=wilson(correct, n))


@dataclass(frozen=True, slots=True)
class ProbeData:
    """Checked features and labels of both sets, as NumPy arrays."""

    x: Shaped[np.ndarray, "train dim"]
    class_index: Int[np.ndarray, " train"]
    """Label of each training image as an index of `classes`."""
    x_test: Shaped[np.ndarray, "test dim"]
    y_test: Int[np.ndarray, " test"]
    classes: Int[np.ndarray, " classes"]
    """Labels of the training images, ascending."""


@dataclass(frozen=True, slots=True)
class Standardizer:
    """Shift and scale of each feature, measured on the training images."""

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]

    @classmethod
    def fit(cls, x: Shaped[np.ndarray, "examples dim"]) -> "Standardizer":
        """Fit to `x`; the scale is the deviation plus 1e-5, for constant features."""
        mean = x.mean(axis=0, dtype=np.float64)
        return cls(mean, x.std(axis=0, dtype=np.float64) + 1e-5)

    def __call__(
        self, x: Shaped[np.ndarray, "examples dim"]
    ) -> Float[np.ndarray, "examples dim"]:
        return (x.astype(np.float64) - self.mean) / self.scale


def validate(x: Table, y: Table, x_test: Table, y_test: Table) -> ProbeData:
    """Convert the arguments of a probe to arrays that fit each other.

    Args:
        x: numbers [train, dim]; `x_test` likewise with as many columns.
        y: whole numbers [train], from 0; `y_test` likewise, each also one of `y`.
    """
    rows, labels = _features(x, "x"), _labels(y, "y")
    test_rows, test_labels = _features(x_test, "x_test"), _labels(y_test, "y_test")
    _same_length(rows, labels, "x", "y")
    _same_length(test_rows, test_labels, "x_test", "y_test")
    if rows.shape[1] != test_rows.shape[1]:
        raise DataError(
            f"x and x_test differ in width: got {rows.shape[1]} and "
            f"{test_rows.shape[1]} features. Compute both with the same model."
        )
    classes, class_index = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"y holds one class only ({classes[0]}): a probe needs at least two. "
            "Check that the labels were read, or take more images."
        )
    unknown = ~np.isin(test_labels, classes)
    if unknown.any():
        raise DataError(
            f"y_test holds {test_labels[unknown.argmax()]} (row "
            f"{int(unknown.argmax())}), which no label of y is: no probe can answer "
            f"it ({int(unknown.sum())} of {len(unknown)} test images). Use one class "
            "list for both sets, or leave these images out."
        )
    _check_finite(rows, "x")
    _check_finite(test_rows, "x_test")
    return ProbeData(rows, class_index, test_rows, test_labels, classes)


def make_result(
    protocol: str,
    sets: ProbeData,
    predict: Callable[[Shaped[np.ndarray, "rows dim"]], Int[np.ndarray, " rows"]],
    settings: dict[str, Any],
    *,
    started: float,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Probe:
    """Predict the test images in slices, and measure the predictions.

    Args:
        predict: from features to indices of `sets.classes`.
        started: `time.perf_counter()` at the start.
    """
    slices = row_slices(len(sets.x_test), rows_at_once)
    predicted = sets.classes[np.concatenate([predict(sets.x_test[s]) for s in slices])]
    right, n = int((predicted == sets.y_test).sum()), len(predicted)
    return Probe(
        protocol=protocol,
        n=n,
        accuracy=right / n,
        interval=wilson(right, n),
        predicted=tuple(predicted.tolist()),
        settings={"classes": len(sets.classes), "dim": sets.x.shape[1], **settings},
        seconds=time.perf_counter() - started,
    )


def row_slices(length: int, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Yield slices of at most `size` rows that cover `length` rows in order."""
    return (slice(first, first + size) for first in range(0, length, size))


def _features(value: Table, name: str) -> Shaped[np.ndarray, "..."]:
    # NumPy has no bfloat16 and does not see another device.
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.element_size() < 4 else value
    rows = np.asarray(value)
    if rows.ndim != 2 or 0 in rows.shape:
        raise DataError(
            f"{name} must hold one row of features an image, [images, dim]: got the "
            f"shape {rows.shape}. Pass what vitral.features returns."
        )
    if rows.dtype.kind not in "fiu":
        raise DataError(
            f"{name} must hold real numbers: got {rows.dtype}. Pass what "
            "vitral.features returns."
        )
    return rows


def _labels(value: Table, name: str) -> Shaped[np.ndarray, "..."]:
    labels = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    if labels.ndim != 1:
        raise DataError(
            f"{name} must hold one label an image, [images]: got the shape "
            f"{labels.shape}. Pass class indices, not one-hot rows."
        )
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} must hold whole numbers from 0: got {labels.dtype}. Pass class "
            "indices."
        )
    if (labels < 0).any():
        row = int((labels < 0).argmax())
        raise DataError(
            f"{name} must hold whole numbers from 0: got {labels[row]} in row {row}. "
            "Leave images without a label out."
        )
    return labels.astype(np.int64)


def _same_length(
    rows: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
    rows_name: str,
    labels_name: str,
) -> None:
    if len(rows) != len(labels):
        raise DataError(
            f"{rows_name} and {labels_name} differ in length: got {len(rows)} rows of "
            f"features and {len(labels)} labels. Pass both of the same images."
        )


def _check_finite(rows: Shaped[np.ndarray, "examples dim"], name: str) -> None:
    count, first = 0, None
    for piece in row_slices(len(rows)):
        bad = np.flatnonzero(~np.isfinite(rows[piece]).all(axis=1))
        count += len(bad)
        if first is None and len(bad):
            first = piece.start + int(bad[0])
    if count:
        raise DataError(
            f"{count} of {len(rows)} rows of {name} hold NaN or infinity (first: row "
            f"{first}). The model may have diverged or overflowed in half precision: "
            "compute the features again in float32, or load an earlier checkpoint."
        )
