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
from vitral.models import ModelConfig, VisionModel, ViT, get_model_name
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
from vitral.workflows.cost.dataset_sizes import DatasetSize, get_dataset_size
from vitral.workflows.cost.macs import count_macs
from vitral.workflows.train import build_optimizer, resolve_model_config

FLOPS_PER_MAC = 6
"""Two for a multiply-accumulate forward, four backward; as the paper counts
(arXiv 2010.11929, table 6)."""
BYTES_PER_FLOAT = 4
"""Bytes of a weight, a gradient, a number of the optimizer or of the average."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a run has to do."""

    size: DatasetSize
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
    backward_share: float
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
        both = 2 + (FLOPS_PER_MAC - 2) * self.backward_share
        return (both * self.macs + 2 * self.teacher_macs) * self.images


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device."""

    microbatch_size: int
    """Images in one forward pass."""
    num_trainable: int
    """Parameters with a gradient, those of the objective among them."""
    weights: int
    gradients: int
    optimizer: int
    ema: int
    """Of the running average of the weights; 0 without one."""
    activations: int
    """What the backward pass of `at_once` images needs."""

    @property
    def total(self) -> int:
        parts = (self.weights, self.gradients, self.optimizer, self.ema)
        return sum(parts) + self.activations


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """Of one run."""

    work: Workload
    memory: MemoryEstimate
    devices: int

    def seconds(self, flops_per_second: float) -> float:
        """Of training, if every device makes so many operations a second."""
        return self.work.flops / (flops_per_second * self.devices)


def estimate(config: TrainConfig, *, devices: int = 1) -> RunCost:
    """What `train(config, ...)` would cost; writes and downloads nothing.

    Args:
        devices: how many share a batch; each holds all weights.

    Raises:
        ConfigError: the settings cannot be trained with.
        DataError: the data is no published set and cannot be opened.
        WeightsError: the weights cannot be read.
    """
    work = estimate_workload(config)
    return RunCost(
        work=work, memory=estimate_memory(config, work, devices), devices=devices
    )


def estimate_workload(config: TrainConfig) -> Workload:
    """Images, updates, parameters and compute; raises what `estimate` does."""
    size = get_dataset_size(config)
    updates = config.loop.steps or steps_for(
        size.images, config.epochs, config.batch_size
    )
    lr_at(0, updates, config.optim.lr, config.schedule)  # refuses as the run would
    source = vitral.weights.read(config.weights) if config.weights else None
    classes = size.classes if config.objective.LABELS else 0
    model = resolve_model_config(config, classes, source)
    teacher = _read_teacher_config(config)
    shapes = vitral.models.tensor_shapes(model)
    return Workload(
        size=size,
        model=model,
        name=get_model_name(model) or config.model,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        updates=updates,
        batch_size=config.batch_size,
        epochs=updates * config.batch_size / max(size.images, 1),
        macs=count_macs(config, model),
        backward_share=1 - max(config.freeze, 0) / model.num_blocks,
        teacher_macs=teacher.macs() if teacher else 0,
    )


def estimate_memory(
    config: TrainConfig, work: Workload, devices: int = 1
) -> MemoryEstimate:
    """What one of so many devices holds while it trains."""
    with torch.device("meta"):
        model = vitral.models.build_model(work.model)
        if config.freeze >= 0:
            model.freeze(config.freeze)
        objective = build_dummy_objective(config, model, work)
    optimizer = build_optimizer(config, model, objective)
    moved = _count_parameters(objective)
    learned = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    at_once = math.ceil(config.batch_size / devices / config.loop.accumulate)
    average = sum(p.numel() for p in model.parameters()) if config.loop.ema else 0
    return MemoryEstimate(
        microbatch_size=at_once,
        num_trainable=learned,
        weights=BYTES_PER_FLOAT * moved,
        gradients=BYTES_PER_FLOAT * learned,
        optimizer=_optimizer_state_bytes(config, optimizer),
        ema=BYTES_PER_FLOAT * average,
        activations=activation_bytes(
            objective,
            lambda images: make_dummy_batch(work, images),
            at_once,
            bf16=config.loop.precision == "bf16",
        ),
    )


def make_dummy_batch(work: Workload, images: int) -> Batch:
    """A batch of so many images as the run would see; its numbers mean nothing."""
    model = work.model
    frames = (model.num_frames,) if model.num_frames else ()
    return Batch(
        image=torch.empty(images, *frames, model.in_chans, *model.image_hw),
        target=torch.empty(images, work.size.classes),
        label=torch.empty(images, dtype=torch.int64),
        id=tuple(str(number) for number in range(images)),
    )


class _UnknownTeacher(nn.Module):
    """In place of a teacher that is not given yet; costs nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_empty(len(image), self.classes)


def build_dummy_objective(
    config: TrainConfig, model: VisionModel, work: Workload
) -> nn.Module:
    """As `run.objective` builds it, with a teacher that has no numbers."""
    settings = config.objective
    if isinstance(settings, SupervisedConfig):
        return Supervised(model, settings)
    if isinstance(settings, DistillConfig):
        known = _read_teacher_config(config)
        teacher = (
            vitral.models.build_model(known)
            if known
            else _UnknownTeacher(work.size.classes)
        )
        return Distill(model, teacher, settings)
    assert isinstance(model, ViT)
    if isinstance(settings, MAEConfig):
        if not config.weights:
            masked_autoencoder.init_encoder(model)
        return MAE(model, settings)
    assert isinstance(settings, MaskedPatchConfig)
    return MaskedPatch(model, settings)


def _read_teacher_config(config: TrainConfig) -> ModelConfig | None:
    """The settings of the model that teaches; None if nobody does, or nobody yet."""
    settings = config.objective
    if not isinstance(settings, DistillConfig) or not settings.teacher:
        return None
    return vitral.weights.read(settings.teacher).config


def _count_parameters(objective: nn.Module) -> int:
    """Parameters on the device: the objective's, and its teacher's."""
    moved = sum(p.numel() for p in objective.parameters())
    if isinstance(objective, Distill):
        moved += sum(p.numel() for p in objective.teacher.parameters())
    return moved


def _optimizer_state_bytes(
    config: TrainConfig, optimizer: torch.optim.Optimizer
) -> int:
    """Of the optimizer after its first update."""
    if config.optim.optimizer == "sgd" and not config.optim.momentum:
        return 0
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    return BYTES_PER_FLOAT * sum(
        optimizer_state_size(config.optim.optimizer, p) for p in tensors
    )


def optimizer_state_size(optimizer: str, parameter: torch.Tensor) -> int:
    """How many numbers an optimizer keeps of one tensor, its counter left out."""
    numbers = parameter.numel()
    if optimizer == "adafactor" and parameter.ndim > 1:
        return numbers // parameter.shape[-1] + numbers // parameter.shape[-2]
    return numbers * (2 if optimizer == "adamw" else 1)


def measure_flops(seconds: float = 0.5) -> float:
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
