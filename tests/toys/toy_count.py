"""Count the white squares of a drawn picture: a task of another package."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from vitral.data import Dataset, DecodedImage, Example, Targets
from vitral.tasks import Answer, Labels, MeanMetric, MeanResult, ObjectiveConfig, Task

SIDE, CELLS = 24, 4


@dataclass(frozen=True)
class Draw:
    """Reader: the id of an example decides its picture."""

    def __call__(self, example: Example) -> DecodedImage:
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        cells = np.random.default_rng(int(example.id)).permutation(CELLS**2)
        for cell in cells[: int(example.target)]:
            row, column = (6 * int(i) for i in divmod(int(cell), CELLS))
            pixels[row + 1 : row + 5, column + 1 : column + 5] = 255
        return DecodedImage(image=Image.fromarray(pixels))


class CountTargets(Targets):
    def stack(self, names, examples, values):
        return torch.tensor(values, dtype=torch.float32)[:, None]


@dataclass(frozen=True, kw_only=True)
class CountConfig(ObjectiveConfig):
    NAME: ClassVar[str] = "count"
    TASK: ClassVar[str] = "count"
    MONITOR: ClassVar[str] = "error"


class CountLoss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return {"loss": (self.model(batch.image) - batch.target).square().mean()}


class MeanError(MeanMetric):
    measure = "error"
    unreadable = float(CELLS)
    higher_is_better = False

    def score(self, outputs, target):
        return (outputs - target).abs().flatten().tolist()


@dataclass(frozen=True)
class CountAnswer(Answer):
    squares: float

    def row(self):
        return {"squares": self.squares}


class CountTask(Task):
    name = "count"
    priority = 10
    objectives = (CountConfig,)
    results = (MeanResult,)
    lower_is_better = frozenset({"error"})

    def fits(self, source):
        return "drawn squares" if source.data.startswith("squares:") else ""

    def list_examples(self, data, settings):
        number = int(data.partition(":")[2])
        drawn = [Example(id=f"{i:04d}", target=i % 6) for i in range(number)]
        return Dataset(
            name="squares", root=Path("squares"), classes=(), examples=tuple(drawn),
            reader=Draw(), targets=CountTargets(),
        )  # fmt: skip

    def labels_of(self, dataset):
        return Labels(names=("squares",))

    def build_objective(self, settings, model, context):
        return CountLoss(model)

    def decode(self, outputs, context):
        return [CountAnswer(value) for value in outputs.flatten().tolist()]

    def row_types(self, labels):
        return {"squares": float}

    def metric(self, labels):
        return MeanError(labels)

    def score(self, outputs, target, labels):
        return 1 - (outputs - target.numpy()) ** 2


TASK = CountTask()
