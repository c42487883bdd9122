"""One update and the average: accumulation, divergence, precision, memory."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from helpers import run_fit
from vitral.data import Batch, ClassTarget
from vitral.errors import DivergedError, VitralError
from vitral.nested import to_device
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.training import CheckpointStore, LoopConfig
from vitral.training.distributed import local_microbatches
from vitral.training.ema import create_ema, decay_at
from vitral.training.step import TrainStep, derive_seed


def batch_of(count=19, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(7, (count,), generator=generator)
    return Batch(
        torch.randn(count, 5, dtype=dtype, generator=generator),
        ClassTarget(functional.one_hot(label, 7).to(dtype), label),
        tuple(f"image/{index}" for index in range(count)),
    )


def network(dtype=torch.float64, dropout=0.0):
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(5, 11, dtype=dtype),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(11, 7, dtype=dtype),
    )


def updater_of(objective, *, accumulate=1, bf16=False, clip=0.0, seed=0):
    return TrainStep(
        forward=objective,
        parameters=dict(objective.named_parameters()),
        optimizer=torch.optim.SGD(objective.parameters(), 0.1),
        device=torch.device("cpu"),
        seed=seed,
        accumulate=accumulate,
        bf16=bf16,
        clip_norm=clip,
    )


@pytest.mark.parametrize("weights", [None, (0.1, 5.0, 1.0, 2.0, 0.3, 1.0, 9.0)])
@pytest.mark.parametrize("accumulate", [2, 8, 40])
def test_micro_batches_give_the_gradient_of_the_whole_batch(accumulate, weights):
    config = SupervisedConfig(smoothing=0.1, class_weights=weights)
    whole, parts = (Supervised(network(), config) for _ in range(2))
    batch = batch_of()
    one = updater_of(whole).update(batch, 0)
    many = updater_of(parts, accumulate=accumulate).update(batch, 0)
    for expected, got in zip(whole.parameters(), parts.parameters(), strict=True):
        assert (expected.grad - got.grad).abs().max() <= 1e-10
        assert (expected - got).abs().max() <= 1e-10
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-10)
    assert many.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-12)
    assert many.metrics["accuracy"] == pytest.approx(one.metrics["accuracy"])
    assert one.images == many.images == 19


def cut(batch, count):
    """The micro-batches of one process."""
    passes = local_microbatches(batch, rank=0, world=1, accumulate=count)
    return [part.batch for part in passes]


def test_parts_are_a_partition():
    batch = batch_of()
    parts = cut(batch, 8)
    assert sorted(len(part.id) for part in parts) == [2] * 5 + [3] * 3
    assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
    assert sum((part.id for part in parts), ()) == batch.id
    assert len(cut(batch, 40)) == 19


def test_to_device_moves_tensors_only():
    batch = to_device(batch_of(), torch.device("meta"))
    assert batch.image.device.type == batch.target.label.device.type == "meta"
    assert batch.id[3] == "image/3"
    assert isinstance(batch, Batch)


def test_randomness_is_that_of_seed_step_and_part():
    def weights_after(step, seed, disturb, accumulate=2):
        objective = Supervised(network(dropout=0.5), SupervisedConfig())
        torch.manual_seed(disturb)
        updater_of(objective, accumulate=accumulate, seed=seed).update(batch_of(), step)
        return objective.model[0].weight.detach()

    first = weights_after(3, 7, disturb=1)
    assert torch.equal(first, weights_after(3, 7, disturb=2))
    assert not torch.equal(first, weights_after(4, 7, disturb=1))
    assert not torch.equal(first, weights_after(3, 8, disturb=1))
    seeds = {derive_seed(s, t, p) for s in range(5) for t in range(20) for p in (-1, 0)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_clipping_limits_the_update():
    objective = Supervised(network(), SupervisedConfig())
    before = [p.detach().clone() for p in objective.parameters()]
    update = updater_of(objective, clip=0.01).update(batch_of(), 0)
    assert update.grad_norm > 0.01  # the norm before clipping is what is logged
    moved = [
        (p.detach() - b).flatten()
        for p, b in zip(objective.parameters(), before, strict=True)
    ]
    assert torch.cat(moved).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-9)


def test_bf16_forward_and_float32_weights():
    seen = []
    objective = Supervised(network(torch.float32), SupervisedConfig())
    objective.model[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    batch = batch_of(dtype=torch.float32)
    exact = Supervised(network(torch.float32), SupervisedConfig())
    loss = updater_of(objective, bf16=True).update(batch, 0).metrics["loss"]
    expected = updater_of(exact).update(batch, 0).metrics["loss"]
    assert seen == [torch.bfloat16]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in objective.parameters())
    assert loss == pytest.approx(expected, rel=0.02)
    assert loss != expected


class Poison(nn.Module):
    """Turns one site of the computation into a value that is not finite."""

    def __init__(self, site: str, value: float, at: int) -> None:
        super().__init__()
        self.model = network(torch.float32)
        self.site, self.value, self.at = site, value, at
        self.calls = 0

    def forward(self, batch):
        self.calls += 1
        bad = self.calls == self.at
        image = (
            batch.image * self.value if bad and self.site == "input" else batch.image
        )
        logits = self.model(image)
        loss = functional.cross_entropy(logits, batch.target.label)
        if bad and self.site == "loss":
            loss = loss * self.value
        if bad and self.site == "gradient":
            loss = loss + Bad.apply(self.model[3].bias, self.value)
        if bad and self.site == "weight":
            self.model[3].weight.data[0, 0] = self.value
        return {"loss": loss}


class Bad(torch.autograd.Function):
    """Forward 0, backward a value that is not finite: the loss hides it."""

    @staticmethod
    def forward(ctx, parameter, value):
        ctx.like, ctx.value = parameter, value
        return parameter.new_zeros(())

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(ctx.like, ctx.value), None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("site", ["input", "loss", "gradient", "weight"])
def test_divergence_is_seen_in_its_step_and_never_saved(tmp_path, site, value):
    objective = Poison(site, value, at=6)

    def batches(epoch, start):
        for index in range(start, 50):
            yield batch_of(3, torch.float32, index)

    saved = {}
    with pytest.raises(DivergedError) as raised:
        run_fit(
            objective,
            torch.optim.AdamW(objective.parameters(), 0.01),
            config=LoopConfig(steps=20, ema=0.9, checkpoint_every=1, keep=20),
            batches=batches,
            batches_per_epoch=50,
            lr=lambda step: 0.01,
            folder=tmp_path,
            seed=0,
            device=torch.device("cpu"),
            on_best=lambda model, step: saved.update(model=model),
        )
    message = str(raised.value)
    assert raised.value.exit_code == 5
    assert "diverged" in message
    assert "step 6" in message
    if site != "weight":  # a weight set from outside is seen by the save
        assert "image/0, image/1, image/2" in message
        assert "earlier checkpoints are intact" in message
    if site == "gradient":
        assert "first in model.3.bias" in message
        assert "loss nan" not in message
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.steps() == (1, 2, 3, 4, 5)
    assert store.latest() == (5, ())
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 15
    for path in files:
        assert all(bool(torch.isfinite(t).all()) for t in load_file(path).values())
    assert not saved
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(text))


def test_a_best_model_with_infinite_weights_is_not_handed_out(tmp_path):
    """The gradient is finite, the update is too large, and the metric hides it."""
    objective = Supervised(network(torch.float32), SupervisedConfig())
    bright = batch_of(4, torch.float32)
    bright = bright._replace(image=1000 * bright.image)
    saved = []
    with pytest.raises(DivergedError, match=r"of model has NaN or infinite .* step 2"):
        run_fit(
            objective,
            torch.optim.SGD(objective.parameters(), 0.1),
            config=LoopConfig(steps=2),
            batches=lambda epoch, start: iter([bright, bright]),
            batches_per_epoch=2,
            lr=lambda step: 3e38 * step,
            evaluate=lambda model: {"accuracy": 1.0},
            folder=tmp_path,
            seed=0,
            device=torch.device("cpu"),
            on_best=lambda model, step: saved.append(step),
        )
    assert saved == []
    assert CheckpointStore(tmp_path / "checkpoints").steps() == ()


def test_many_ids_are_shortened():
    objective = Poison("loss", math.nan, at=1)
    with pytest.raises(DivergedError, match=r"image/7 and 11 more\. Lower"):
        updater_of(objective).update(batch_of(dtype=torch.float32), 0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_out_of_memory_gives_advice(error):
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, batch):
            raise error

    with pytest.raises(
        VitralError, match=r"step 5 with 19 images .*lower the batch size"
    ):
        updater_of(Greedy()).update(batch_of(), 4)


def test_other_errors_pass_through():
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, batch):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        updater_of(Wrong()).update(batch_of(), 4)


def test_average_of_ones_from_zero():
    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    average = create_ema(model, 0.9999, warmup=False)
    nn.init.ones_(model.weight)
    for step in range(1, 51):
        average.update_parameters(model)
        expected = 1 - 0.9999**step
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-12)


def test_average_of_constants_is_bit_equal_and_buffers_follow():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = create_ema(model, 0.9, warmup=True)
    for _ in range(10):
        average.update_parameters(model)
    for got, expected in zip(
        average.module.parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(got, expected)
    model[1].running_mean.fill_(3.0)
    average.update_parameters(model)
    assert average.module[1].running_mean.tolist() == [3.0] * 4


def test_average_warmup():
    assert decay_at(0, 0.9999, True) == 0.1
    assert decay_at(5, 0.9999, True) == pytest.approx(6 / 15)
    assert decay_at(10**6, 0.9999, True) == 0.9999
    assert decay_at(0, 0.9999, False) == 0.9999
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    average = create_ema(model, 0.9999, warmup=True)
    value = 0.0
    for step in range(4):
        nn.init.constant_(model.weight, step + 1.0)
        average.update_parameters(model)
        factor = (1 + step) / (10 + step)
        value = factor * value + (1 - factor) * (step + 1)
        assert average.module.weight.item() == pytest.approx(value, rel=1e-12)
