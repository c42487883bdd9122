"""Estimate the cost of a run before it starts: images, compute, memory, time.

Nothing is allocated: the model and a forward pass of its objective use tensors without
storage. The formulas are in docs/recipes.md.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

import vitral.models
import vitral.weights
from vitral.data import Batch, Preprocess
from vitral.models import (
    ModelConfig,
    VisionModel,
    count_parameters,
    get_model_name,
)
from vitral.tasks import Labels, ObjectiveContext, get_task
from vitral.training import lr_at, steps_for
from vitral.workflows.config import TrainConfig
from vitral.workflows.cost.activations import activation_bytes
from vitral.workflows.cost.dataset_sizes import DatasetSize, get_dataset_size
from vitral.workflows.cost.macs import count_macs
from vitral.workflows.train import build_optimizer, resolve_model_config

FLOPS_PER_MAC = 6
"""Two FLOPs of a multiply-accumulate forward, four backward, as in arXiv 2010.11929,
table 6."""
BYTES_PER_FLOAT = 4
"""Bytes of a weight, a gradient, or an element of optimizer state or EMA."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Images, updates and compute of a run."""

    task: str
    """Name of the task."""
    size: DatasetSize
    """Training images and classes."""
    model: ModelConfig
    name: str
    """Name of the model."""
    parameters: int
    """Parameters of the model, without those of the objective."""
    updates: int
    batch_size: int
    epochs: float
    macs: int
    """Multiply-accumulates of one image forward, objective included."""
    backward_share: float
    """Share of the blocks with a backward pass: below 1 if some are frozen."""
    teacher_macs: int
    """Multiply-accumulates of one image in the teacher, forward; 0 if none is known."""

    @property
    def images(self) -> int:
        """Images that pass through the model in training."""
        return self.updates * self.batch_size

    @property
    def flops(self) -> float:
        """Floating-point operations of the training, forward and backward."""
        flops_per_mac = 2 + (FLOPS_PER_MAC - 2) * self.backward_share
        return (flops_per_mac * self.macs + 2 * self.teacher_macs) * self.images


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device."""

    microbatch_size: int
    """Images in one forward pass."""
    num_trainable: int
    """Parameters with a gradient, objective included."""
    weights: int
    gradients: int
    optimizer: int
    ema: int
    """Bytes of the exponential moving average of the weights; 0 without one."""
    activations: int
    """Bytes saved for the backward pass of `microbatch_size` images."""

    @property
    def total(self) -> int:
        parts = (self.weights, self.gradients, self.optimizer, self.ema)
        return sum(parts) + self.activations


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """Estimated cost of one run."""

    work: Workload
    memory: MemoryEstimate
    devices: int

    def seconds(self, flops_per_second: float) -> float:
        """Return the seconds of training at `flops_per_second` on every device."""
        return self.work.flops / (flops_per_second * self.devices)


def estimate(config: TrainConfig, *, devices: int = 1) -> RunCost:
    """Estimate the cost of `train(config, ...)`; writes and downloads nothing.

    Args:
        devices: number of devices that share a batch; each holds all weights.

    Raises:
        ConfigError: the settings do not allow a training.
        DataError: the data is no published set and cannot be opened.
        WeightsError: the weights cannot be read.
    """
    work = estimate_workload(config)
    return RunCost(
        work=work, memory=estimate_memory(config, work, devices), devices=devices
    )


def estimate_workload(config: TrainConfig) -> Workload:
    """Estimate images, updates, parameters and compute; raises as `estimate` does."""
    size = get_dataset_size(config)
    updates = config.loop.steps or steps_for(
        size.images, config.epochs, config.batch_size
    )
    lr_at(0, updates, config.optim.lr, config.schedule)  # raises as the run would
    source = vitral.weights.read(config.weights) if config.weights else None
    classes = size.classes if config.objective.LABELS else 0
    model = resolve_model_config(config, classes, source)
    teacher = _read_teacher_config(config)
    shapes = vitral.models.tensor_shapes(model)
    return Workload(
        size=size,
        task=config.objective.TASK,
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
    """Estimate the bytes that each of `devices` devices holds while it trains."""
    with torch.device("meta"):
        model = vitral.models.build_model(work.model)
        if config.freeze >= 0:
            model.freeze(config.freeze)
        objective = build_dummy_objective(config, model, work)
    optimizer = build_optimizer(config.optim, model, objective)
    num_weights = count_parameters(objective)
    if config.objective.NEEDS_TEACHER:  # which the objective hides
        num_weights += count_parameters(objective.teacher)  # type: ignore[arg-type]
    num_trainable = count_parameters(objective, trainable=True)
    microbatch = math.ceil(config.batch_size / devices / config.loop.accumulate)
    num_ema = count_parameters(model) if config.loop.ema else 0
    return MemoryEstimate(
        microbatch_size=microbatch,
        num_trainable=num_trainable,
        weights=BYTES_PER_FLOAT * num_weights,
        gradients=BYTES_PER_FLOAT * num_trainable,
        optimizer=_optimizer_state_bytes(config, optimizer),
        ema=BYTES_PER_FLOAT * num_ema,
        activations=activation_bytes(
            objective,
            lambda images: make_dummy_batch(work, images),
            microbatch,
            bf16=config.loop.precision == "bf16",
        ),
    )


def make_dummy_batch(work: Workload, images: int) -> Batch:
    """Return a batch of the run's shapes with uninitialized values."""
    return Batch(
        image=torch.empty(images, *work.model.input_shape),
        target=get_task(work.task).dummy_target(images, work.size.classes),
        id=tuple(str(index) for index in range(images)),
    )


class _UnknownTeacher(nn.Module):
    """Stand-in for a teacher that is not given yet; costs nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_empty(len(image), self.classes)


def build_dummy_objective(
    config: TrainConfig, model: VisionModel, work: Workload
) -> nn.Module:
    """Build the objective as `train` does, with a teacher without storage."""
    names = tuple(map(str, range(work.size.classes)))
    settings = config.objective.for_cost(len(names))
    teacher_config = _read_teacher_config(config)
    teacher = (
        vitral.models.build_model(teacher_config)
        if teacher_config
        else _UnknownTeacher(work.size.classes)
    )
    context = ObjectiveContext(
        preprocess=Preprocess(image_size=work.model.image_hw),
        names=names,
        labels=Labels(names=names),
        fresh=not config.weights,
        teacher=teacher,
    )
    return get_task(settings.TASK).build_objective(settings, model, context)


def _read_teacher_config(config: TrainConfig) -> ModelConfig | None:
    """Read the settings of the teacher; None if there is none, or not yet."""
    path = config.objective.teacher_path()
    return vitral.weights.read(path).config if path else None


def _optimizer_state_bytes(
    config: TrainConfig, optimizer: torch.optim.Optimizer
) -> int:
    """Return the bytes of the optimizer state after its first update."""
    if config.optim.optimizer == "sgd" and not config.optim.momentum:
        return 0
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    return BYTES_PER_FLOAT * sum(
        optimizer_state_size(config.optim.optimizer, p) for p in tensors
    )


def optimizer_state_size(optimizer: str, parameter: torch.Tensor) -> int:
    """Count the state elements of an optimizer for one tensor, without its counter."""
    size = parameter.numel()
    if optimizer == "adafactor" and parameter.ndim > 1:
        return size // parameter.shape[-1] + size // parameter.shape[-2]
    return size * (2 if optimizer == "adamw" else 1)


def measure_flops(seconds: float = 0.5) -> float:
    """Measure the FLOPs per second of a float32 matrix product on this CPU.

    Training reaches less, so a time estimated from it is a lower bound.
    """
    side = 768
    left, right = torch.rand(side, side), torch.rand(side, side)
    left @ right  # warm up: the first product allocates
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        left @ right
        products += 1
    return 2 * side**3 * products / (time.perf_counter() - started)
