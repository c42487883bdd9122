"""What a run costs before it is begun: images, compute, memory, time.

Nothing is allocated: the model is built without storage, and one forward pass of its
objective on such tensors tells what the backward pass would have to keep. The formulas
are in docs/recipes.md.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

import vitral.models
import vitral.weights
from vitral.data import Batch
from vitral.models import ModelConfig, VisionModel, ViT, name_of
from vitral.objectives import (
    MAE,
    Distill,
    DistillConfig,
    MAEConfig,
    MaskedPatch,
    MaskedPatchConfig,
    Supervised,
    SupervisedConfig,
)
from vitral.objectives import mae as masked_autoencoder
from vitral.training import lr_at, steps_for
from vitral.workflows.config import TrainConfig
from vitral.workflows.cost.activations import activation_bytes
from vitral.workflows.cost.dataset_sizes import Size, size_of
from vitral.workflows.cost.macs import macs_of
from vitral.workflows.train import optimizer_of, planned_model

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
    """Multiply-accumulates of one image forward, with what its objective adds."""
    learning: float
    """Share of the blocks that have a backward pass: below 1 where some are frozen."""
    teacher_macs: int
    """Of one image through the teacher, forward only; 0 without one that is known."""

    @property
    def images(self) -> int:
        """That pass through the model in training."""
        return self.updates * self.batch_size

    @property
    def flops(self) -> float:
        """Floating-point operations of the training, forward and backward."""
        both = 2 + (FLOPS_PER_MAC - 2) * self.learning
        return (both * self.macs + 2 * self.teacher_macs) * self.images


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
    classes = size.classes if config.objective.LABELS else 0
    model = planned_model(config, classes, source)
    teacher = _teacher(config)
    shapes = vitral.models.tensor_shapes(model)
    return Work(
        size=size,
        model=model,
        name=name_of(model) or config.model,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        updates=updates,
        batch_size=config.batch_size,
        epochs=updates * config.batch_size / max(size.images, 1),
        macs=macs_of(config, model),
        learning=1 - max(config.freeze, 0) / model.num_blocks,
        teacher_macs=teacher.macs() if teacher else 0,
    )


def memory_of(config: TrainConfig, work: Work, devices: int = 1) -> Memory:
    """What one of so many devices holds while it trains."""
    with torch.device("meta"):
        model = vitral.models.build(work.model)
        if config.freeze >= 0:
            model.freeze(config.freeze)
        objective = planned_objective(config, model, work)
    optimizer = optimizer_of(config, model, objective)
    moved = _on_device(objective)
    learned = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    at_once = math.ceil(config.batch_size / devices / config.loop.accumulate)
    average = sum(p.numel() for p in model.parameters()) if config.loop.ema else 0
    return Memory(
        at_once=at_once,
        learned=learned,
        weights=FLOAT * moved,
        gradients=FLOAT * learned,
        optimizer=_state_bytes(config, optimizer),
        average=FLOAT * average,
        activations=activation_bytes(
            objective,
            lambda images: batch_like(work, images),
            at_once,
            bf16=config.loop.precision == "bf16",
        ),
    )


def batch_like(work: Work, images: int) -> Batch:
    """A batch of so many images as the run would see; its numbers mean nothing."""
    model = work.model
    frames = (model.num_frames,) if model.num_frames else ()
    return Batch(
        image=torch.empty(images, *frames, model.in_chans, *model.image_hw),
        target=torch.empty(images, work.size.classes),
        label=torch.empty(images, dtype=torch.int64),
        id=tuple(str(number) for number in range(images)),
    )


class _Unknown(nn.Module):
    """In place of a teacher that is not given yet; costs nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_empty(len(image), self.classes)


def planned_objective(config: TrainConfig, model: VisionModel, work: Work) -> nn.Module:
    """As `run.objective` builds it, with a teacher that has no numbers."""
    settings = config.objective
    if isinstance(settings, SupervisedConfig):
        return Supervised(model, settings)
    if isinstance(settings, DistillConfig):
        known = _teacher(config)
        teacher = vitral.models.build(known) if known else _Unknown(work.size.classes)
        return Distill(model, teacher, settings)
    assert isinstance(model, ViT)
    if isinstance(settings, MAEConfig):
        if not config.weights:
            masked_autoencoder.start(model)
        return MAE(model, settings)
    assert isinstance(settings, MaskedPatchConfig)
    return MaskedPatch(model, settings)


def _teacher(config: TrainConfig) -> ModelConfig | None:
    """The settings of the model that teaches; None if nobody does, or nobody yet."""
    settings = config.objective
    if not isinstance(settings, DistillConfig) or not settings.teacher:
        return None
    return vitral.weights.read(settings.teacher).config


def _on_device(objective: nn.Module) -> int:
    """Parameters on the device: the objective's, and its teacher's."""
    moved = sum(p.numel() for p in objective.parameters())
    if isinstance(objective, Distill):
        moved += sum(p.numel() for p in objective.teacher.parameters())
    return moved


def _state_bytes(config: TrainConfig, optimizer: torch.optim.Optimizer) -> int:
    """Of the optimizer after its first update."""
    if config.optim.optimizer == "sgd" and not config.optim.momentum:
        return 0
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    return FLOAT * sum(state_numbers(config.optim.optimizer, p) for p in tensors)


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
