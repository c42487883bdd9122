"""Noisy Student self-training (arXiv 1911.04252): pseudo-labels and the loss.

A teacher answers clean unlabelled images. Its confident answers, balanced over the
classes, are targets of a student that sees the same images with noise. Rounds and
files: vitral.workflows.self_training.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.tasks.classification.supervised import softmax_loss

THRESHOLD = 0.3
"""Lowest confidence that the paper keeps (section 3.2)."""


class PseudoLabels(NamedTuple):
    """Targets of a student on unlabelled images."""

    chosen: Int[Tensor, "chosen"]
    """Rows of the table that are used, class by class, the most confident first."""
    repeats: Int[Tensor, "chosen"]
    """Repeats of each per epoch, 1 or more."""
    targets: Float[Tensor, "chosen classes"]
    """Soft or one-hot, each summing to 1."""


def pseudo_labels(
    probabilities: Float[Tensor, "images classes"],
    *,
    threshold: float = THRESHOLD,
    per_class: int = 0,
    temperature: float = 1.0,
    hard: bool = False,
) -> PseudoLabels:
    """Keep the teacher's confident answers, balanced over the classes (section 3.2).

    An image belongs to the class of its highest probability, the first of equals. Per
    class the `per_class` most confident stay, equals in the table's order. A class with
    fewer repeats them round-robin, the most confident first, up to `per_class`.

    Args:
        probabilities: the teacher's, rows summing to 1.
        threshold: an image stays if its highest probability is at least this.
        per_class: images of each class after balancing. 0 takes the mean number of a
            class above the threshold, rounded up; -1 does not balance.
        temperature: T of targets p^(1/T), renormalised; below 1 is sharper. The
            threshold and the order are those of p.
        hard: one-hot targets.

    Raises:
        ConfigError: a setting is out of range, or the table is no table of
            probabilities.
    """
    _check(probabilities, threshold, per_class, temperature)
    confidence, label = probabilities.max(dim=1)
    # In the table's dtype: 0.3 in float32 is above 0.3 in float64.
    sure = confidence >= torch.tensor(threshold, dtype=probabilities.dtype)
    num_classes = probabilities.shape[1]
    if per_class == 0:
        per_class = math.ceil(int(sure.sum()) / num_classes)
    chosen, repeats = [], []
    for index in range(num_classes):
        rows = torch.nonzero(sure & (label == index)).flatten()
        order = torch.argsort(confidence[rows], descending=True, stable=True)
        rows = rows[order]
        if per_class > 0:
            rows = rows[:per_class]
        chosen.append(rows)
        repeats.append(_repeats(len(rows), per_class))
    taken = torch.cat(chosen)
    targets = _targets(probabilities[taken], temperature, hard)
    return PseudoLabels(taken, torch.cat(repeats), targets)


def _repeats(count: int, per_class: int) -> Int[Tensor, "count"]:
    """Return how often each of `count` images is seen, `per_class` times together."""
    repeats = torch.ones(count, dtype=torch.long)
    if count and count < per_class:
        repeats[:] = per_class // count
        repeats[: per_class % count] += 1
    return repeats


def _targets(
    probabilities: Float[Tensor, "chosen classes"], temperature: float, hard: bool
) -> Float[Tensor, "chosen classes"]:
    if hard:
        targets = torch.zeros_like(probabilities)
        return targets.scatter_(1, probabilities.argmax(1, keepdim=True), 1.0)
    if temperature == 1:
        return probabilities
    # By logarithms: 0.3^(1/T) of many classes underflows at a small T.
    return (probabilities.log() / temperature).softmax(dim=1)


def _check(
    probabilities: Float[Tensor, "images classes"],
    threshold: float,
    per_class: int,
    temperature: float,
) -> None:
    check_settings(threshold, per_class, temperature)
    sums = probabilities.sum(dim=1)
    bad = ((sums - 1).abs() > 1e-3) | (probabilities < 0).any(dim=1) | sums.isnan()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ConfigError(
            "Pseudo-labels need probabilities that sum to 1: row "
            f"{row} sums to {float(sums[row]):.4g}. Give the softmax of the logits."
        )


def check_settings(threshold: float, per_class: int, temperature: float) -> None:
    """Check that settings of `pseudo_labels` are in range.

    Raises:
        ConfigError: naming the setting.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"`threshold` must be a probability: got {threshold}.")
    if per_class < -1:
        raise ConfigError(
            "`per_class` must be a number of images, 0 for the mean over the classes, "
            f"or -1 for no balance: got {per_class}."
        )
    if not 0 < temperature < math.inf:
        raise ConfigError(
            f"`temperature` must be a finite number above 0: got {temperature}."
        )


def self_training_loss(
    logits: Float[Tensor, "labelled classes"],
    target: Float[Tensor, "labelled classes"],
    pseudo_logits: Float[Tensor, "pseudo classes"],
    pseudo_target: Float[Tensor, "pseudo classes"],
    *,
    ratio: float,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the labelled part's mean cross-entropy, plus `ratio` times the other's.

    The released code's loss without its weight decay: there a batch holds B labelled
    and ratio·B other images, and both sums are divided by B. A run of vitral draws its
    batches from one set in which both kinds stand as 1 to `ratio`: for a batch of
    exactly that mix its mean loss is this one divided by 1 + ratio.

    Args:
        smoothing: of the labelled targets alone.
    """
    labelled = softmax_loss(logits, target, smoothing, None)
    other = softmax_loss(pseudo_logits, pseudo_target, 0.0, None)
    return labelled.per_image.mean() + ratio * other.per_image.mean()
