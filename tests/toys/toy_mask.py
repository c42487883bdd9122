"""Find the square of a picture, of three sizes, as a mask: another package's task."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.io import encode_png
from torchvision.tv_tensors import Mask

from vitral.data import Dataset, DecodedImage, Example, Targets
from vitral.tasks import Answer, Labels, MeanMetric, MeanResult, ObjectiveConfig, Task

SIZES, GRID = ((24, 24), (24, 48), (60, 36)), 6


def draw(example):
    """Return a mask: a square in one of nine places, which decides its picture."""
    height, width = SIZES[int(example.id) % 3]
    mask = np.zeros(9, np.uint8)
    mask[np.random.default_rng(int(example.id)).integers(9)] = 255
    return np.kron(mask.reshape(3, 3), np.ones((height // 3, width // 3), np.uint8))


class Draw:
    def __call__(self, example):
        return DecodedImage(image=Image.fromarray(draw(example)).convert("RGB"))


class MaskTargets(Targets):
    moves: ClassVar[bool] = True

    def read(self, example):
        return Mask(torch.from_numpy(draw(example) // 255))

    def stack(self, names, examples, values):
        masks = torch.stack([torch.as_tensor(value).float() for value in values])
        return F.adaptive_avg_pool2d(masks[:, None], GRID).flatten(1)


@dataclass(frozen=True, kw_only=True)
class MaskConfig(ObjectiveConfig):
    NAME: ClassVar[str] = "mask"
    TASK: ClassVar[str] = "mask"
    MONITOR: ClassVar[str] = "overlap"


class MaskLoss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        cells, truth = self.model(batch.image), batch.target
        loss = F.binary_cross_entropy_with_logits(cells, truth, reduction="sum")
        return {"terms": {"cells": (loss, truth.numel())}}

    def term_weights(self, batch):
        return {"cells": batch.target.numel()}


class Overlap(MeanMetric):
    measure = "overlap"

    def score(self, outputs, target):
        answer, truth = outputs > 0, target > 0.5
        return ((answer & truth).sum(1) / (answer | truth).sum(1)).tolist()


@dataclass(frozen=True)
class MaskAnswer(Answer):
    mask: np.ndarray

    def row(self):
        return {"share": float((self.mask > 0).mean())}

    def files(self):
        content = encode_png(torch.from_numpy(self.mask)[None])
        return {".png": content.numpy().tobytes()}


class MaskTask(Task):
    name = "mask"
    priority = 10
    objectives, results = (MaskConfig,), (MeanResult,)

    def fits(self, source):
        return "drawn masks" * source.data.startswith("masks:")

    def list_examples(self, data, settings):
        drawn = [Example(id=f"{i:04d}") for i in range(int(data.partition(":")[2]))]
        parts = {"examples": tuple(drawn), "reader": Draw(), "targets": MaskTargets()}
        return Dataset(name="masks", root=Path("masks"), classes=(), **parts)

    def labels_of(self, dataset):
        return Labels(names=tuple(f"cell {i}" for i in range(GRID**2)))

    def build_objective(self, settings, model, context):
        return MaskLoss(model)

    def decode(self, outputs, context):
        cells = 255 * (outputs > 0).to(torch.uint8).unflatten(1, (GRID, GRID)).numpy()
        blocks = [np.ones((h // GRID, w // GRID), np.uint8) for h, w in context.sizes]
        return [MaskAnswer(np.kron(*pair)) for pair in zip(cells, blocks, strict=True)]

    def row_types(self, labels):
        return {"share": float}

    def metric(self, labels):
        return Overlap(labels)

    def score(self, outputs, target, labels):
        return (outputs > 0) == (target.numpy() > 0.5)


TASK = MaskTask()
