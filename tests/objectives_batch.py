"""Batches and short runs that the tests of several objectives need."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers import TINY, run_fit
from vitral.data import Batch, ClassTarget
from vitral.models import ViT, ViTConfig
from vitral.training.loop import LoopConfig


def batch_of(image: Tensor, first: int = 0, classes: int = 7) -> Batch:
    """Images with made-up labels; ids count from `first`."""
    label = torch.arange(first, first + len(image)) % classes
    target = nn.functional.one_hot(label, classes).to(image.dtype)
    names = tuple(f"{first + i}.png" for i in range(len(image)))
    return Batch(image, ClassTarget(target, label), names)


def encoder(**changes: Any) -> ViT:
    """The tiny ViT without a head, freshly initialised."""
    return ViT(ViTConfig(**{**TINY, "num_classes": 0, **changes}))


class Killed(Exception):
    """Stands for a crash in the middle of a run."""


def run(
    objective: nn.Module, folder: Path, *, kill: bool = False, resume: bool = False
) -> dict[str, Tensor]:
    """Four updates of three images in two parts each; everything that was trained.

    Args:
        kill: crash before the fourth, with the second one saved.
    """

    def batches(epoch: int, start: int):
        for index in range(start, 2):
            if kill and (epoch, index) == (1, 1):
                raise Killed
            generator = torch.Generator().manual_seed(10 * epoch + index)
            image = torch.randn(3, 3, 48, 80, generator=generator)
            yield batch_of(image, first=10 * index)

    free = [p for p in objective.parameters() if p.requires_grad]
    run_fit(
        objective,
        torch.optim.AdamW(free),
        config=LoopConfig(steps=4, accumulate=2, log_every=1, checkpoint_every=2),
        batches=batches,
        batches_per_epoch=2,
        lr=lambda step: 1e-2,
        folder=folder,
        seed=5,
        device=torch.device("cpu"),
        resume=resume,
    )
    return objective.state_dict()
