"""Supervised losses: the golden numbers, torch as a reference, errors."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers import validate_with
from vitral.data import Batch, ClassTarget
from vitral.errors import ConfigError
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.tasks.objective import BatchLike


class Constant(nn.Module):
    """Zero weights, a bias: the head of an untrained model."""

    def __init__(self, classes: int, bias: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Linear(5, 3)
        self.head = nn.Linear(3, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, image):
        return self.head(self.body(image))


def batch_of(labels, classes, target=None, dtype=torch.float32):
    label = torch.tensor(labels)
    if target is None:
        target = functional.one_hot(label, classes).to(dtype)
    image = torch.linspace(-1, 1, 5 * len(labels), dtype=dtype).view(-1, 5)
    names = tuple(f"{i}" for i in range(len(labels)))
    return Batch(image, ClassTarget(target, label), names)


def logits_model(classes=7, dtype=torch.float64):
    torch.manual_seed(3)
    model = nn.Linear(5, classes, dtype=dtype)
    with torch.no_grad():
        model.weight.mul_(5)
    return model


def test_batch_is_batch_like():
    assert isinstance(batch_of([1, 2], 7), BatchLike)


@pytest.mark.parametrize(
    ("classes", "loss"),
    [
        (10, 2.302585),
        (100, 4.605170),
        (512, 6.238325),
        (1000, 6.907755),
        (21_843, 9.991636),
    ],
)
def test_softmax_loss_of_a_zero_head_is_ln_k(classes, loss):
    objective = Supervised(Constant(classes), SupervisedConfig())
    result = objective(batch_of([3, 8], classes))
    assert result["loss"].item() == pytest.approx(loss, abs=2e-6)


@pytest.mark.parametrize(
    ("classes", "bias", "loss"),
    [(1000, 0.0, 693.1472), (1000, -6.9, 7.9073), (21_843, -10.0, 10.9916)],
)
def test_sigmoid_loss_at_the_start(classes, bias, loss):
    objective = Supervised(Constant(classes, bias), SupervisedConfig(loss="sigmoid"))
    result = objective(batch_of([3, 8], classes))
    assert result["loss"].item() == pytest.approx(loss, rel=1e-5)


def test_first_gradient_is_softmax_minus_one_hot_and_leaves_the_body():
    model = Constant(7)
    objective = Supervised(model, SupervisedConfig())
    batch = batch_of([2, 5], 7)
    objective(batch)["loss"].backward()
    assert torch.count_nonzero(model.body.weight.grad) == 0
    expected = torch.full((7,), 1 / 7)
    expected[[2, 5]] -= 0.5  # each of the two images counts half
    torch.testing.assert_close(model.head.bias.grad, expected)
    torch.optim.SGD(model.parameters(), 1.0).step()
    model.zero_grad()
    objective(batch)["loss"].backward()
    assert torch.count_nonzero(model.body.weight.grad) > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_equals_torch(smoothing, weighted):
    weights = (0.5, 2.0, 1.0, 3.0, 0.25, 1.5, 4.0) if weighted else None
    model = logits_model()
    config = SupervisedConfig(smoothing=smoothing, class_weights=weights)
    batch = batch_of([6, 2, 2, 4], 7, dtype=torch.float64)
    result = Supervised(model, config)(batch)
    reference = nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
    )
    expected = reference(model(batch.image), batch.target.label)
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_soft_targets_equal_torch():
    target = torch.tensor(
        [[0.7, 0, 0.3, 0, 0, 0, 0], [0, 0.4, 0, 0, 0.6, 0, 0]], dtype=torch.float64
    )
    batch = batch_of([0, 4], 7, target)._replace(
        image=torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
    )
    model = logits_model()
    result = Supervised(model, SupervisedConfig())(batch)
    expected = nn.CrossEntropyLoss()(model(batch.image), target)
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_is_the_summed_bce_over_the_batch(weighted):
    weights = (0.5, 2.0, 1.0, 3.0, 0.25, 1.5, 4.0) if weighted else None
    target = torch.tensor([[1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1.0]])
    batch = batch_of([0, 6], 7, target)
    model = logits_model(dtype=torch.float32)
    config = SupervisedConfig(loss="sigmoid", class_weights=weights)
    result = Supervised(model, config)(batch)
    reference = nn.BCEWithLogitsLoss(
        weight=None if weights is None else torch.tensor(weights), reduction="sum"
    )
    expected = reference(model(batch.image), target) / 2
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_sigmoid_smoothing_moves_both_sides():
    # K=2, s=0.2: targets 1 and 0 become 0.9 and 0.1; zero logits hide it, so use ±1.
    model = nn.Linear(5, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, -1.0]))
    config = SupervisedConfig(loss="sigmoid", smoothing=0.2)
    loss = Supervised(model, config)(batch_of([0], 2))["loss"].item()
    one_side = 0.9 * math.log(1 + math.exp(-1)) + 0.1 * math.log(1 + math.exp(1))
    assert loss == pytest.approx(2 * one_side, rel=1e-6)


def test_accuracy_and_weight():
    model = logits_model()
    batch = batch_of([0, 0, 0, 0], 7, dtype=torch.float64)
    predicted = model(batch.image).argmax(1)
    labels = predicted.clone()
    labels[1] = (labels[1] + 1) % 7
    batch = batch._replace(target=batch.target._replace(label=labels))
    result = Supervised(model, SupervisedConfig())(batch)
    assert result["accuracy"].item() == 0.75
    assert result["weight"].item() == 4
    assert not result["weight"].requires_grad


def test_bfloat16_logits_give_a_float32_loss():
    model = nn.Linear(5, 1000, dtype=torch.bfloat16)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batch = batch_of([3, 8], 1000)._replace(image=torch.ones(2, 5).bfloat16())
    loss = Supervised(model, SupervisedConfig())(batch)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-6)


def test_targets_of_zero_weight_are_finite():
    config = SupervisedConfig(class_weights=(1.0,) * 7)
    batch = batch_of([0, 1], 7, torch.zeros(2, 7))
    loss = Supervised(logits_model(dtype=torch.float32), config)(batch)["loss"]
    assert loss.item() == 0


def test_class_weights_are_not_saved():
    objective = Supervised(nn.Linear(5, 2), SupervisedConfig(class_weights=(1.0, 2.0)))
    assert set(objective.state_dict()) == {"model.weight", "model.bias"}


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match="'softmax' or 'sigmoid': got 'hinge'"):
        validate_with(SupervisedConfig(), "loss", "hinge")
    with pytest.raises(ConfigError, match=r"`smoothing` .* below 1: got 1.0"):
        SupervisedConfig(smoothing=1.0)
    with pytest.raises(ConfigError, match=r"class 1 has 0.0"):
        SupervisedConfig(class_weights=(1.0, 0.0))
    config = SupervisedConfig(class_weights=(1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="3 values and the data has 7 classes"):
        Supervised(nn.Linear(5, 7), config)(batch_of([0, 1], 7))
    with pytest.raises(ConfigError, match="num_classes=7"):
        Supervised(nn.Linear(5, 6), SupervisedConfig())(batch_of([0, 1], 7))
