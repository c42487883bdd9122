"""A tiny network and a whole `fit` of it, for tests of loops, kills and folders."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from helpers import run_fit
from run_folders import untimed
from vitral.data import Batch, ClassTarget
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.training import (
    CheckpointStore,
    LoopConfig,
    OptimConfig,
    ScheduleConfig,
    create_optimizer,
    lr_at,
    parameter_groups,
)

IMAGES, CLASSES, BATCH = 26, 7, 4
PER_EPOCH = 7  # six batches of 4 and one of 2


class Tiny(nn.Module):
    """A patch embedding, a normalisation with buffers, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 4, 4)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(5 * 2 * 3, CLASSES)

    def forward(self, image):
        return self.head(self.drop(self.norm(self.patch(image)).flatten(1)))


def images():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(IMAGES, 3, 8, 12, generator=generator)


def batches_of(pixels, seed=0, seen=None):
    labels = torch.arange(len(pixels)) % CLASSES

    def batches(epoch, start):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(len(pixels), generator=generator)
        for chunk in order.split(BATCH)[start:]:
            ids = tuple(f"image/{index}" for index in chunk.tolist())
            if seen is not None:
                seen.append(ids)
            target = nn.functional.one_hot(labels[chunk], CLASSES).float()
            yield Batch(pixels[chunk], ClassTarget(target, labels[chunk]), ids)

    return batches


def evaluator(pixels):
    labels = torch.arange(len(pixels)) % CLASSES

    def evaluate(model):
        assert not model.training
        logits = model(pixels)
        loss = nn.functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": float(loss), "accuracy": float(accuracy)}

    return evaluate


class Setup(NamedTuple):
    objective: Supervised
    optimizer: torch.optim.Optimizer


def setup(kind="adamw", model=None) -> Setup:
    torch.manual_seed(1)
    model = Tiny() if model is None else model
    optim = OptimConfig(optimizer=kind, lr=0.02, weight_decay=0.1)
    optimizer = create_optimizer(
        parameter_groups(model, optim, lambda name: 0, 0), optim
    )
    return Setup(Supervised(model, SupervisedConfig()), optimizer)


def config_of(**changes):
    base = {
        "steps": 23,
        "accumulate": 3,
        "ema": 0.9,
        "log_every": 4,
        "eval_every": 5,
        "checkpoint_every": 3,
    }
    return LoopConfig(**base | changes)


def run(folder: Path, *, kind="adamw", config=None, **changes):
    folder.mkdir(exist_ok=True)
    pixels = images()
    config = config_of() if config is None else config
    made = changes.pop("made", None) or setup(kind)
    schedule = ScheduleConfig(warmup=2)
    arguments = {
        "config": config,
        "batches": batches_of(pixels),
        "batches_per_epoch": PER_EPOCH,
        "lr": lambda step: lr_at(step, config.steps, 0.02, schedule),
        "evaluate": evaluator(pixels),
        "folder": folder,
        "seed": 11,
        "device": torch.device("cpu"),
        "clip_norm": 1.0,
    } | changes
    return run_fit(made.objective, made.optimizer, **arguments)


def assert_same_run(one: Path, two: Path) -> None:
    """Equal last checkpoint, tensor by tensor, bit by bit, and equal log."""
    first, second = (CheckpointStore(folder / "checkpoints") for folder in (one, two))
    step = first.latest().step
    assert second.latest().step == step
    for name in ("model", "ema", "optimizer"):
        path = f"{name}.safetensors"
        content = (first.path(step) / path).read_bytes()
        assert content == (second.path(step) / path).read_bytes(), name
    assert untimed(one) == untimed(two)
