"""Losses of several terms: parts and ranks add up to the whole batch."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers import run_fit
from rank_server import Server
from terms_batch import VOID, Places, batch_of_places, step_of
from terms_batch import PixelsAndBoxes as Objective
from vitral.errors import ConfigError
from vitral.nested import slice_rows, to_device
from vitral.training import LoopConfig
from vitral.training.loss import divide_terms, mean_loss


def whole_batch():
    """Loss of each term and the gradient, written out example by example."""
    objective, batch = Objective(), batch_of_places()
    answers = objective.model(batch.image)
    pixels, boxes = [], []
    for answer, classes, own in zip(
        answers, batch.target.pixels, batch.target.boxes, strict=True
    ):
        chances = answer[4:].view(6, 3).softmax(1)
        pixels += [-chances[i, c].log() for i, c in enumerate(classes) if c != VOID]
        boxes += [(answer[:4] - box).abs().sum() for box in own]
    assert (len(pixels), len(boxes)) == (7 * 6 - 5 - 2 - 6, 11)
    terms = [torch.stack(values).mean() for values in (pixels, boxes)]
    sum(terms).backward()
    gradient = {name: p.grad for name, p in objective.named_parameters()}
    return [term.item() for term in terms], gradient


def assert_whole(metrics, gradient):
    (pixels, boxes), expected = whole_batch()
    assert metrics["loss"] == pytest.approx(pixels + boxes, rel=1e-12)
    assert metrics["pixels"] == pytest.approx(pixels, rel=1e-12)
    assert metrics["boxes"] == pytest.approx(boxes, rel=1e-12)
    image = batch_of_places().image
    assert metrics["brightness"] == pytest.approx(float(image.mean()), rel=1e-12)
    assert gradient.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (gradient[name] - tensor).abs().max() <= 1e-13, name
        assert tensor.abs().max() > 1e-3


@pytest.mark.parametrize("parts", [1, 2, 4, 7, 40])
def test_parts_of_any_weight_give_the_gradient_of_the_whole_batch(parts):
    objective = Objective()
    update = step_of(objective, parts).update(batch_of_places(), 0)
    assert list(update.metrics) == ["loss", "pixels", "boxes", "brightness"]
    assert_whole(update.metrics, {n: p.grad for n, p in objective.named_parameters()})
    assert update.images == 7


@pytest.mark.parametrize("shard", ["none", "fsdp"])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_ranks_give_the_gradient_of_the_whole_batch(tmp_path, accumulate, shard):
    server = Server(tmp_path)
    try:
        server.run("update_terms", str(tmp_path), accumulate, shard)
    finally:
        server.close()
    for rank in range(2):
        metrics = json.loads((tmp_path / f"metrics-{rank}.json").read_text())
        assert_whole(metrics, load_file(tmp_path / f"gradient-{rank}.safetensors"))


def test_a_term_without_examples_adds_nothing():
    batch = batch_of_places()
    batch = slice_rows(batch, 0, 2)
    objective = Objective()
    update = step_of(objective).update(batch, 0)
    assert update.metrics["boxes"] == 0
    assert update.metrics["loss"] == update.metrics["pixels"] > 0
    total = torch.ones((), requires_grad=True)
    divide_terms({"boxes": (total, 0)}, {"boxes": 0.0}).backward()
    assert total.grad == 0


def test_the_mean_loss_of_a_whole_batch():
    pixels, boxes = whole_batch()[0]
    result = Objective()(batch_of_places())
    assert mean_loss(result).item() == pytest.approx(pixels + boxes, rel=1e-12)
    assert mean_loss({"loss": torch.tensor(3.0), "accuracy": 1}) == 3


def test_parts_need_the_weights_of_the_batch():
    objective = Objective()
    one = step_of(objective, term_weights=None)
    one.update(batch_of_places(), 0)
    two = step_of(objective, 2, term_weights=None)
    with pytest.raises(ConfigError, match=r"method `term_weights\(batch\)`, or train"):
        two.update(batch_of_places(), 0)
    wrong = step_of(objective, 2, term_weights=lambda batch: {"pixels": 1, "boxes": 4})
    with pytest.raises(
        ConfigError,
        match=r"`term_weights` of the objective gives 2 for 'pixels', and its forward "
        "pass 29",
    ):
        wrong.update(batch_of_places(), 0)


class Contrast(nn.Module):
    accumulates = False

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(5, 2, dtype=torch.float64)

    def forward(self, batch):
        return {"loss": self.model(batch.image).std()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_may_refuse_parts(tmp_path, accumulate):
    objective = Contrast()

    def fit():
        run_fit(
            objective,
            torch.optim.SGD(objective.parameters(), 0.1),
            config=LoopConfig(steps=1, accumulate=accumulate),
            batches=lambda epoch, start: iter([batch_of_places()]),
            batches_per_epoch=1,
            lr=lambda step: 0.1,
            folder=tmp_path,
            seed=0,
            device=torch.device("cpu"),
        )

    if accumulate == 1:
        fit()
        return
    with pytest.raises(ConfigError, match="`accumulate` is 2, and the loss of Contr"):
        fit()


@pytest.mark.parametrize(
    ("monitor", "lower", "best"),
    [
        ("error", {"loss", "error"}, 2),
        ("error", {"loss"}, 3),
        ("val_loss", set(), 2),
    ],
)
def test_which_metric_is_better_when_it_is_smaller(tmp_path, monitor, lower, best):
    objective = Contrast()
    errors = iter([0.5, 0.25, 0.75])
    result = run_fit(
        objective,
        torch.optim.SGD(objective.parameters(), 0.1),
        config=LoopConfig(steps=3, eval_every=1, monitor=monitor),
        batches=lambda epoch, start: iter([batch_of_places()]),
        batches_per_epoch=1,
        lr=lambda step: 0.1,
        evaluate=lambda model: {monitor: next(errors)},
        folder=tmp_path,
        seed=0,
        device=torch.device("cpu"),
        lower_is_better=frozenset(lower),
    )
    assert result.best_step == best


def test_nested_tuples_are_cut_and_moved_by_example():
    batch = batch_of_places()
    cut = slice_rows(batch, 1, 4)
    assert isinstance(cut.target, Places)
    assert cut.image.equal(batch.image[1:4])
    assert cut.target.pixels.equal(batch.target.pixels[1:4])
    assert [len(own) for own in cut.target.boxes] == [0, 3, 1]
    assert cut.target.boxes[1] is batch.target.boxes[2]
    assert cut.id == ("1.png", "2.png", "3.png")
    assert slice_rows(batch, 5, None).id == ("5.png", "6.png")
    assert slice_rows(batch._replace(target=None), 0, 1).target is None
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved.target, Places)
    assert moved.target.pixels.device.type == "meta"
    assert {own.device.type for own in moved.target.boxes} == {"meta"}
    assert moved.id == batch.id
