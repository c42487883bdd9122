"""Time a training step: forward, loss, backward, clipping, AdamW.

Ours is the step of `vitral train`, with its checks for finite numbers and its metrics.
A peer's is the usual loop: cross entropy, torch's clipping and AdamW, with our weight
decay per tensor. timm is also measured with the optimizer of its factory.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.interleave import run_interleaved
from benchmarks.peers.machine import peak_flops
from benchmarks.peers.peers import Side, Sides
from benchmarks.peers.rows import timing_row
from vitral.data import Batch, ClassTarget
from vitral.models import VisionModel
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.training.optim import (
    OptimConfig,
    create_optimizer,
    kernel_names,
    parameter_groups,
)
from vitral.training.step import TrainStep

OPTIM = OptimConfig(optimizer="adamw", lr=1e-4, weight_decay=0.1, clip_norm=1.0)
WITH_FACTORY = "timm, its optimizer"
StepFn = Callable[[], object]


def measure(sides: Sides, batch: int, rounds: int) -> dict[str, Any]:
    """Time a float32 step of `batch` images, all sides interleaved.

    The weights change during the measurement, in the same way for all sides.
    """
    data = make_batch(sides, batch)
    work: dict[str, StepFn] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for side in sides.available:
        work[side.name] = make_step(side, data)
        kinds[side.name] = (side.kind, side.against)
        if side.name == "timm":
            work[WITH_FACTORY] = _peer_step(
                side.model, data, _factory_optimizer(side.model)
            )
            kinds[WITH_FACTORY] = (side.kind, side.against)
    peak = peak_flops()
    taken = run_interleaved(work, rounds)
    peak = max(peak, peak_flops())
    # Twice the forward pass again for the gradients of inputs and weights.
    flops = 6.0 * sides.config.macs() * batch
    return {
        "batch": batch,
        "rounds": rounds,
        "peak_flops": peak,
        "flops": flops,
        "absent": {},
        "rows": [
            timing_row(name, *kinds[name], taken, flops=flops, peak=peak)
            for name in work
        ],
    }


def make_batch(sides: Sides, images: int) -> Batch:
    """Return noise with labels."""
    config = sides.config
    label = torch.arange(images) % config.num_classes
    return Batch(
        image=torch.randn(images, config.in_chans, *config.image_hw),
        target=ClassTarget(
            nn.functional.one_hot(label, config.num_classes).float(), label
        ),
        id=tuple(str(number) for number in range(images)),
    )


def make_step(side: Side, batch: Batch) -> StepFn:
    """Return a function that makes one update of a side's weights."""
    if side.is_ours:
        assert isinstance(side.model, VisionModel)
        return _our_step(side.model, batch)
    return _peer_step(
        side.model, batch, torch.optim.AdamW(_parameter_groups(side.model), OPTIM.lr)
    )


def _our_step(model: VisionModel, batch: Batch) -> StepFn:
    objective = Supervised(model, SupervisedConfig()).train()
    top = model.config.num_blocks + 1
    updater = TrainStep(
        forward=objective,
        parameters=dict(objective.named_parameters()),
        optimizer=create_optimizer(
            parameter_groups(
                objective,
                OPTIM,
                lambda name: model.layer_index(name.removeprefix("model.")),
                top,
            ),
            OPTIM,
        ),
        device=torch.device("cpu"),
        seed=0,
        accumulate=1,
        bf16=False,
        clip_norm=OPTIM.clip_norm,
    )
    steps = iter(range(1_000_000))

    def run() -> object:
        objective.train()
        return updater.update(batch, next(steps))

    return run


def _peer_step(
    model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer
) -> StepFn:
    def run() -> object:
        model.train()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch.image), batch.target.label)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()
        return loss.item()

    return run


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups with weight decay on matrices only, as ours."""
    kernels = kernel_names(model)
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decayed if name in kernels else others).append(parameter)
    return [
        {"params": decayed, "weight_decay": OPTIM.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _factory_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    import timm.optim

    return timm.optim.create_optimizer_v2(
        model, opt="adamw", lr=OPTIM.lr, weight_decay=OPTIM.weight_decay
    )
