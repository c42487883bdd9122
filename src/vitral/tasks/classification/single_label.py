"""Single-label classification: all metrics of a result from logits and labels.

Ties: of equal scores the lower class index ranks higher, as in `argmax`. Files that
could not be decoded are wrong answers: they count in n, supports and recalls, but not
in NLL, ECE and bins. Multi-label: multilabel.py. Drawing: vitral.plots.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from vitral.errors import DataError, DivergedError
from vitral.evaluation.intervals import Interval, bootstrap, wilson
from vitral.tasks.classification.calibration import ece, log_softmax, reliability
from vitral.tasks.classification.result import Classification, ClassRow, Confusion

TOP5_NEEDS_MORE_THAN = 5


def classify(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    class_names: Sequence[str],
    *,
    unreadable: Sequence[int] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Classification:
    """Measure a classifier.

    Args:
        logits: scores before the softmax, finite.
        labels: the index of the right class.
        class_names: in the order of the logits.
        unreadable: labels of the files that could not be decoded; counted as wrong.
        resamples: bootstrap draws for macro-F1 and balanced accuracy; 0 leaves their
            intervals out.
        seed: of the bootstrap.

    Raises:
        DataError: nothing to measure, or a label or a row of logits does not fit the
            class names.
        DivergedError: a logit is not finite.
    """
    lost = np.asarray(unreadable, dtype=np.int64)
    _check(logits, labels, lost, class_names)
    num_classes = len(class_names)
    answer = logits.argmax(axis=1)
    ranks = label_ranks(logits, labels)
    true = np.concatenate([labels.astype(np.int64), lost])
    # An undecodable file answers a class that does not exist.
    predicted = np.concatenate([answer, np.full(len(lost), num_classes)])
    table = _ClassCounts(true, predicted, num_classes)
    n = len(true)
    right = int((ranks == 1).sum())
    top5 = int((ranks <= 5).sum()) if num_classes > TOP5_NEEDS_MORE_THAN else None
    log_prob = log_softmax(logits)
    label_log_prob = log_prob[np.arange(len(labels)), labels]
    confidence = np.minimum(np.exp(log_prob.max(axis=1, initial=-np.inf)), 1.0)
    bins = reliability(confidence, answer == labels)

    def interval(metric: Callable[[_ClassCounts], float]) -> Interval | None:
        if resamples == 0:
            return None
        return bootstrap(
            lambda rows: metric(_ClassCounts(true[rows], predicted[rows], num_classes)),
            n,
            seed=seed,
            resamples=resamples,
        )

    return Classification(
        classes=tuple(class_names),
        n=n,
        n_unreadable=len(lost),
        top1=right / n,
        top1_interval=wilson(right, n),
        top5=None if top5 is None else top5 / n,
        top5_interval=None if top5 is None else wilson(top5, n),
        macro_f1=table.macro_f1,
        macro_f1_interval=interval(lambda counts: counts.macro_f1),
        balanced_accuracy=table.balanced_accuracy,
        balanced_accuracy_interval=interval(lambda counts: counts.balanced_accuracy),
        nll=float(-label_log_prob.mean()) if len(labels) else None,
        ece=ece(bins) if len(labels) else None,
        majority=float(table.support.max() / n),
        majority_class=class_names[int(table.support.argmax())],
        per_class=_rows(table, lost, class_names),
        confusion=_confusions(labels, answer),
        reliability=bins,
    )


def softmax(
    logits: Float[np.ndarray, "examples classes"],
) -> Float[np.ndarray, "examples classes"]:
    """Return probabilities in double precision."""
    return np.exp(log_softmax(logits))


def label_ranks(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
) -> Int[np.ndarray, " examples"]:
    """Return the rank of the label's score in its row; 1 is the highest."""
    label_scores = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    return (
        1
        + (logits > label_scores).sum(axis=1)
        + ((logits == label_scores) & before).sum(axis=1)
    )


class _ClassCounts:
    """Counts per class, and the two means derived from them."""

    def __init__(
        self,
        true: Int[np.ndarray, " examples"],
        predicted: Int[np.ndarray, " examples"],
        num_classes: int,
    ) -> None:
        self.support = np.bincount(true, minlength=num_classes)
        self.predicted = np.bincount(predicted, minlength=num_classes)[:num_classes]
        self.hits = np.bincount(true[true == predicted], minlength=num_classes)

    @property
    def balanced_accuracy(self) -> float:
        seen = self.support > 0
        return float((self.hits[seen] / self.support[seen]).mean())

    @property
    def macro_f1(self) -> float:
        total = self.support + self.predicted
        seen = total > 0
        return float((2 * self.hits[seen] / total[seen]).mean())


def _rows(
    table: _ClassCounts, lost: Int[np.ndarray, " lost"], class_names: Sequence[str]
) -> tuple[ClassRow, ...]:
    lost_counts = np.bincount(lost, minlength=len(class_names))
    rows = []
    for i, name in enumerate(class_names):
        hits = int(table.hits[i])
        support, answered = int(table.support[i]), int(table.predicted[i])
        both = support + answered
        rows.append(
            ClassRow(
                name=name,
                support=support,
                unreadable=int(lost_counts[i]),
                predicted=answered,
                recall=hits / support if support else None,
                recall_interval=wilson(hits, support),
                precision=hits / answered if answered else None,
                f1=2 * hits / both if both else None,
            )
        )
    return tuple(rows)


def _confusions(
    labels: Int[np.ndarray, " examples"], answer: Int[np.ndarray, " examples"]
) -> tuple[Confusion, ...]:
    pairs, counts = np.unique(
        np.stack([labels, answer], axis=1), axis=0, return_counts=True
    )
    return tuple(
        Confusion(true=int(pair[0]), predicted=int(pair[1]), count=int(count))
        for pair, count in zip(pairs, counts, strict=True)
    )


def _check(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    lost: Int[np.ndarray, " lost"],
    class_names: Sequence[str],
) -> None:
    if len(labels) + len(lost) == 0:
        raise DataError("there are no examples to evaluate: the split is empty.")
    if logits.shape[1] != len(class_names):
        raise DataError(
            f"logits and class names differ: got {logits.shape[1]} columns and "
            f"{len(class_names)} names. Use the class names of the same model."
        )
    every = np.concatenate([labels, lost])
    wrong = every[(every < 0) | (every >= len(class_names))]
    if len(wrong):
        raise DataError(
            f"a label must lie in 0..{len(class_names) - 1}: got {wrong[0]}. Use the "
            "class names that the labels were made with."
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise DivergedError(
            f"the logits of {(~finite).sum()} of {len(finite)} examples are not finite "
            f"(first: row {int((~finite).argmax())}). The model has diverged; train "
            "with a lower learning rate or load an earlier checkpoint."
        )
