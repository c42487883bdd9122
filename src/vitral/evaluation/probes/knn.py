"""Weighted k-nearest-neighbour classification on frozen features.

Wu et al. (arXiv 1805.01978, section 3.4), as Caron et al. compare features with it
(arXiv 2104.14294): each of the k training images of the highest cosine similarity s
votes for its class with exp(s / temperature).
"""

import time

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.errors import ConfigError
from vitral.evaluation.probes.probe import (
    Probe,
    ProbeData,
    Table,
    make_result,
    row_slices,
    validate,
)


def knn(
    x: Table,
    y: Table,
    x_test: Table,
    y_test: Table,
    *,
    k: int = 20,
    temperature: float = 0.07,
    rows_at_once: int = 2048,
) -> Probe:
    """Return the accuracy of the vote of each test image's nearest training images.

    Of equally similar images the earlier is nearer; of equal votes the lower class
    wins. A row of zeros has the similarity 0 to every other.

    Args:
        x, y, x_test, y_test: features and labels, as for `fewshot`.
        k: neighbours that vote.
        temperature: lower values give the nearest more weight; infinite gives each
            neighbour one vote.
        rows_at_once: rows of either set that are multiplied at once; bounds the memory,
            not the answer.

    Raises:
        ConfigError: `k` is not in 1..train, or `temperature` or `rows_at_once` is not
            above 0.
        DataError: the arrays do not fit each other, or a feature is not finite.
    """
    started = time.perf_counter()
    sets = validate(x, y, x_test, y_test)
    if not 1 <= k <= len(sets.x):
        raise ConfigError(
            f"k must lie in 1..{len(sets.x)}, the number of training images: got {k}. "
            "Take a smaller k or more images."
        )
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0: got {temperature}.")
    if rows_at_once < 1:
        raise ConfigError(f"rows_at_once must be at least 1: got {rows_at_once}.")
    return make_result(
        "knn",
        sets,
        lambda rows: _vote(sets, rows, k, temperature, rows_at_once=rows_at_once),
        {"k": k, "temperature": temperature, "images": len(sets.x)},
        started=started,
        rows_at_once=rows_at_once,
    )


def _vote(
    sets: ProbeData,
    x_test: Shaped[np.ndarray, "test dim"],
    k: int,
    temperature: float,
    *,
    rows_at_once: int,
) -> Int[np.ndarray, " test"]:
    queries = _unit(x_test)
    similarity = np.empty((len(queries), 0))
    classes = np.empty((len(queries), 0), dtype=np.int64)
    for piece in row_slices(len(sets.x), rows_at_once):
        new = queries @ _unit(sets.x[piece]).T
        new_classes = np.broadcast_to(sets.class_index[piece], new.shape)
        similarity = np.concatenate([similarity, new], axis=1)
        classes = np.concatenate([classes, new_classes], axis=1)
        if similarity.shape[1] > k:
            nearest_k = _nearest(similarity, k)
            similarity = np.take_along_axis(similarity, nearest_k, axis=1)
            classes = np.take_along_axis(classes, nearest_k, axis=1)
    # Relative to the nearest: the same order of votes, and exp cannot overflow.
    nearest = similarity.max(axis=1, keepdims=True)
    weight = np.exp((similarity - nearest) / temperature)
    votes = np.zeros((len(queries), len(sets.classes)))
    np.add.at(votes, (np.arange(len(queries))[:, None], classes), weight)
    return votes.argmax(axis=1)


def _nearest(
    similarity: Float[np.ndarray, "test found"], k: int
) -> Int[np.ndarray, "test k"]:
    """Return the columns of the k highest of each row, ascending; ties to the first."""
    limit = np.partition(similarity, -k, axis=1)[:, -k, None]
    above, equal = similarity > limit, similarity == limit
    remaining = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (equal.cumsum(axis=1) <= remaining))
    return np.nonzero(chosen)[1].reshape(len(similarity), k)


def _unit(
    x: Shaped[np.ndarray, "examples dim"],
) -> Float[np.ndarray, "examples dim"]:
    rows = x.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1.0)
