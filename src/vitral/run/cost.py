"""What a run costs before it is begun: images, compute, memory, time.

Nothing is allocated: the model is built without storage, and one forward pass of its
objective on such tensors tells what the backward pass would have to keep. The formulas
are in docs/recipes.md.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import vitral.models
import vitral.weights
from vitral.data import Batch
from vitral.models import ModelConfig, VisionModel, name_of
from vitral.objectives import Supervised
from vitral.run.config import TrainConfig
from vitral.run.setup import optimizer_of, planned_model
from vitral.run.sizes import Size, size_of
from vitral.training import lr_at, steps_for

FLOPS_PER_MAC = 6
"""Two for a multiply-accumulate forward, four backward; as the paper counts
(arXiv 2010.11929, table 6)."""
FLOAT = 4
"""Bytes of a weight, a gradient, a number of the optimizer or of the average."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run has to do."""

    size: Size
    """Training images and classes."""
    model: ModelConfig
    name: str
    """Of the model."""
    parameters: int
    """Of the model, without those that only its objective has."""
    updates: int
    batch_size: int
    epochs: float
    macs: int
    """Multiply-accumulates of one image forward."""

    @property
    def images(self) -> int:
        """That pass through the model in training."""
        return self.updates * self.batch_size

    @property
    def flops(self) -> float:
        """Floating-point operations of the training, forward and backward."""
        return float(FLOPS_PER_MAC) * self.macs * self.images


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    at_once: int
    """Images in one forward pass."""
    learned: int
    """Parameters with a gradient, those of the objective among them."""
    weights: int
    gradients: int
    optimizer: int
    average: int
    """Of the running average of the weights; 0 without one."""
    activations: int
    """What the backward pass of `at_once` images needs."""

    @property
    def together(self) -> int:
        parts = (self.weights, self.gradients, self.optimizer, self.average)
        return sum(parts) + self.activations


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run."""

    work: Work
    memory: Memory
    devices: int

    def seconds(self, flops_per_second: float) -> float:
        """Of training, if every device makes so many operations a second."""
        return self.work.flops / (flops_per_second * self.devices)


def estimate(config: TrainConfig, *, devices: int = 1) -> Cost:
    """What `train(config, ...)` would cost; writes and downloads nothing.

    Args:
        devices: how many share a batch; each holds all weights.

    Raises:
        ConfigError: the settings cannot be trained with.
        DataError: the data is no published set and cannot be opened.
        WeightsError: the weights cannot be read.
    """
    work = work_of(config)
    return Cost(work=work, memory=memory_of(config, work, devices), devices=devices)


def work_of(config: TrainConfig) -> Work:
    """Images, updates, parameters and compute; raises what `estimate` does."""
    size = size_of(config)
    updates = config.loop.steps or steps_for(
        size.images, config.epochs, config.batch_size
    )
    lr_at(0, updates, config.optim.lr, config.schedule)  # refuses as the run would
    source = vitral.weights.read(config.weights) if config.weights else None
    model = planned_model(config, size.classes, source)
    shapes = vitral.models.tensor_shapes(model)
    return Work(
        size=size,
        model=model,
        name=name_of(model) or config.model,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        updates=updates,
        batch_size=config.batch_size,
        epochs=updates * config.batch_size / max(size.images, 1),
        macs=model.macs(),
    )


def memory_of(config: TrainConfig, work: Work, devices: int = 1) -> Memory:
    """What one of so many devices holds while it trains."""
    with torch.device("meta"):
        model = vitral.models.build(work.model)
        if config.freeze >= 0:
            model.freeze(config.freeze)
        objective = Supervised(model, config.objective)
    optimizer = _state_bytes(config, model)
    every = FLOAT * sum(p.numel() for p in objective.parameters())
    learned = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    at_once = math.ceil(config.batch_size / devices / config.loop.accumulate)
    return Memory(
        at_once=at_once,
        learned=learned,
        weights=every,
        gradients=FLOAT * learned,
        optimizer=optimizer,
        average=every if config.loop.ema else 0,
        activations=activation_bytes(
            objective,
            lambda images: _batch(work.model, images),
            at_once,
            bf16=config.loop.precision == "bf16",
        ),
    )


def activation_bytes(
    objective: nn.Module, batch_of: Callable[[int], Any], images: int, *, bf16: bool
) -> int:
    """Bytes that the backward pass of so many images needs, weights left out.

    Copies of the weights in bfloat16 are among them. They and all else that is there
    once are told from what each image adds by passes of one and of two images.

    Args:
        objective: on the meta device; cannot be used afterwards.
        batch_of: makes a batch of so many images.
    """
    # Sizes without numbers, but with the kernels of a CPU: on the meta device the
    # attention would be taken apart, and its maps counted.
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective.to_empty(device="cpu").train()
        one, two = (_kept(objective, batch_of(count), bf16) for count in (1, 2))
    return one + (images - 1) * (two - one)


def _kept(objective: nn.Module, batch: Any, bf16: bool) -> int:
    """Bytes of all storages that one forward pass saves for the backward pass."""
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    own = {tensor.untyped_storage()._cdata for tensor in _tensors(objective)}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        objective(batch)
    return sum(s.nbytes() for key, s in kept.items() if key not in own)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _batch(model: ModelConfig, images: int) -> Batch:
    frames = (model.num_frames,) if model.num_frames else ()
    return Batch(
        image=torch.empty(images, *frames, model.in_chans, *model.image_hw),
        target=torch.empty(images, model.num_classes),
        label=torch.empty(images, dtype=torch.int64),
        id=tuple(str(number) for number in range(images)),
    )


def _state_bytes(config: TrainConfig, model: VisionModel) -> int:
    """Of the optimizer after its first update."""
    optimizer = optimizer_of(config, model)
    total = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            total += FLOAT * state_numbers(config.optim.optimizer, parameter)
    return total if config.optim.optimizer != "sgd" or config.optim.momentum else 0


def state_numbers(optimizer: str, parameter: torch.Tensor) -> int:
    """How many numbers an optimizer keeps of one tensor, its counter left out."""
    numbers = parameter.numel()
    if optimizer == "adafactor" and parameter.ndim > 1:
        return numbers // parameter.shape[-1] + numbers // parameter.shape[-2]
    return numbers * (2 if optimizer == "adamw" else 1)


def measured_flops(seconds: float = 0.5) -> float:
    """Floating-point operations a second of a float32 matrix product on this CPU.

    Training reaches less: what it says of a time is the least there can be.
    """
    side = 768
    left, right = torch.rand(side, side), torch.rand(side, side)
    left @ right  # the first one makes room
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        left @ right
        products += 1
    return 2 * side**3 * products / (time.perf_counter() - started)
