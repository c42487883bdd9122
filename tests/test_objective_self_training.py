"""Pseudo-labels on a table made by hand, and the loss on 2 + 3 samples."""

import math

import pytest
import torch

from vitral.data import Batch, ClassTarget
from vitral.errors import ConfigError
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.tasks.classification.noisy_student import pseudo_labels, self_training_loss

TABLE = torch.tensor(
    [
        [0.90, 0.05, 0.03, 0.02],  # class 0
        [0.20, 0.70, 0.05, 0.05],  # class 1
        [0.30, 0.28, 0.22, 0.20],  # class 0, exactly at the threshold
        [0.10, 0.10, 0.75, 0.05],  # class 2
        [0.60, 0.20, 0.10, 0.10],  # class 0
        [0.05, 0.85, 0.05, 0.05],  # class 1
        [0.60, 0.10, 0.20, 0.10],  # class 0, as sure as row 4
        [0.25, 0.29, 0.26, 0.20],  # below
        [0.15, 0.10, 0.45, 0.30],  # class 2
        [0.28, 0.24, 0.24, 0.24],  # below
        [0.40, 0.20, 0.20, 0.20],  # class 0
    ],
    dtype=torch.float64,
)
"""Nobody is sure of class 3."""


@pytest.mark.parametrize(
    ("per_class", "chosen", "repeats"),
    [
        (-1, [0, 4, 6, 10, 2, 5, 1, 3, 8], [1] * 9),
        (1, [0, 5, 3], [1, 1, 1]),
        (2, [0, 4, 5, 1, 3, 8], [1] * 6),
        (3, [0, 4, 6, 5, 1, 3, 8], [1, 1, 1, 2, 1, 2, 1]),
        (7, [0, 4, 6, 10, 2, 5, 1, 3, 8], [2, 2, 1, 1, 1, 4, 3, 4, 3]),
        # The mean over four classes of nine images, rounded up.
        (0, [0, 4, 6, 5, 1, 3, 8], [1, 1, 1, 2, 1, 2, 1]),
    ],
)
def test_filter_and_balance(per_class, chosen, repeats):
    found = pseudo_labels(TABLE, threshold=0.3, per_class=per_class)
    assert found.chosen.tolist() == chosen
    assert found.repeats.tolist() == repeats
    assert torch.equal(found.targets, TABLE[chosen])
    # An upper bound of a class alone is no balance: fewer are filled up.
    if per_class > 0:
        label = TABLE[chosen].argmax(1)
        seen = torch.bincount(label, found.repeats.double(), minlength=4)
        assert seen.tolist() == [per_class] * 3 + [0]


def test_the_threshold_is_inclusive_in_either_precision():
    for table in (TABLE, TABLE.float()):
        at = pseudo_labels(table, threshold=0.3, per_class=-1).chosen.tolist()
        above = pseudo_labels(table, threshold=0.301, per_class=-1).chosen.tolist()
        assert set(at) - set(above) == {2}
    assert pseudo_labels(TABLE, threshold=0.0, per_class=-1).chosen.numel() == 11
    assert pseudo_labels(TABLE, threshold=0.95).chosen.tolist() == []


def test_sharper_softer_and_hard_targets():
    found = pseudo_labels(TABLE, per_class=2, temperature=0.5)
    # 0.6^2, 0.2^2, 0.1^2, 0.1^2 over their sum; the choice is that of T = 1.
    assert found.chosen.tolist() == [0, 4, 5, 1, 3, 8]
    expected = torch.tensor([0.36, 0.04, 0.01, 0.01], dtype=torch.float64) / 0.42
    torch.testing.assert_close(found.targets[1], expected)
    softer = pseudo_labels(TABLE, per_class=2, temperature=2.0).targets[1]
    roots = torch.tensor([0.6, 0.2, 0.1, 0.1], dtype=torch.float64).sqrt()
    torch.testing.assert_close(softer, roots / roots.sum())
    hard = pseudo_labels(TABLE, per_class=2, temperature=0.5, hard=True).targets
    assert hard.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert hard.sum().item() == 6
    assert set(hard.flatten().tolist()) == {0.0, 1.0}


def test_a_class_of_probability_zero_stays_zero_when_sharpened():
    table = torch.tensor([[0.75, 0.25, 0.0]])
    found = pseudo_labels(table, temperature=0.5)
    torch.testing.assert_close(found.targets, torch.tensor([[0.9, 0.1, 0.0]]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 1.5}, "`threshold` must be a probability: got 1.5"),
        ({"per_class": -2}, "-1 for no balance: got -2"),
        ({"temperature": 0.0}, "`temperature` must be a finite number above 0"),
    ],
)
def test_settings_out_of_range(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        pseudo_labels(TABLE, **settings)


def test_logits_are_refused():
    table = TABLE.clone()
    table[3] = torch.tensor([2.0, -1.0, 0.5, 0.25])
    with pytest.raises(ConfigError, match=r"row 3 sums to 1\.75. Give the softmax"):
        pseudo_labels(table)


LABELLED = [[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]
LABELS = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
PSEUDO = [[0.0, 1.0, 0.0], [2.0, 0.0, 1.0], [-1.0, 0.0, 3.0]]
TEACHER = [[0.2, 0.7, 0.1], [0.5, 0.25, 0.25], [0.0, 0.1, 0.9]]


def cross_entropy(logits, target):
    total = math.log(sum(math.exp(x) for x in logits))
    return -sum(t * (x - total) for t, x in zip(target, logits, strict=True))


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_loss_by_hand_on_two_and_three_samples():
    smoothed = [[0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3], [0.2 / 3, 0.2 / 3, 0.8 + 0.2 / 3]]
    ours = [cross_entropy(*pair) for pair in zip(LABELLED, smoothed, strict=True)]
    theirs = [cross_entropy(*pair) for pair in zip(PSEUDO, TEACHER, strict=True)]
    # Both sums over the two labelled ones: a ratio of 3 to 2.
    expected = (sum(ours) + sum(theirs)) / 2
    loss = self_training_loss(
        double(LABELLED),
        double(LABELS),
        double(PSEUDO),
        double(TEACHER),
        ratio=1.5,
        smoothing=0.2,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert loss.item() == pytest.approx(2.561115, abs=1e-6)


class Says(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(double(logits))

    def forward(self, image):
        return self.logits


def test_a_merged_batch_has_this_loss_over_one_and_the_ratio():
    """What a run trains: one mean, with the smoothing in the labelled targets."""
    smoothed = double(LABELS) * 0.8 + 0.2 / 3
    target = torch.cat([smoothed, double(TEACHER)])
    names = ("a", "b", "c", "d", "e")
    classes = ClassTarget(target, target.argmax(1))
    batch = Batch(torch.zeros(5, 1), classes, names)
    merged = Supervised(Says(LABELLED + PSEUDO), SupervisedConfig())(batch)["loss"]
    loss = self_training_loss(
        double(LABELLED),
        double(LABELS),
        double(PSEUDO),
        double(TEACHER),
        ratio=1.5,
        smoothing=0.2,
    )
    torch.testing.assert_close(merged * 2.5, loss)
