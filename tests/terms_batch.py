"""A batch of pixels and boxes, and an objective whose two terms weigh differently."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitral.training.step import TrainStep

VOID = 9


class Places(NamedTuple):
    """Target of the batch: a list with boxes of each example, and maps with void."""

    boxes: list[Tensor]
    pixels: Tensor


class Batch(NamedTuple):
    image: Tensor
    target: Places
    id: tuple[str, ...]


def batch_of_places() -> Batch:
    """Seven examples; the first two have no box, the last one has only void."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(3, (7, 6), generator=generator)
    pixels[0, 1:] = pixels[3, :2] = pixels[6] = VOID
    counts = (0, 0, 3, 1, 0, 2, 5)
    boxes = [
        torch.rand(count, 4, generator=generator, dtype=torch.float64)
        for count in counts
    ]
    image = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return Batch(image, Places(boxes, pixels), tuple(f"{i}.png" for i in range(7)))


class PixelsAndBoxes(nn.Module):
    """A network that answers with one box and the classes of six pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.model = nn.Sequential(
            nn.Linear(5, 11, dtype=torch.float64),
            nn.GELU(),
            nn.Linear(11, 4 + 18, dtype=torch.float64),
        )

    def forward(self, batch: Batch) -> dict:
        answers = self.model(batch.image)
        logits = answers[:, 4:].reshape(-1, 3)
        pixels = nn.functional.cross_entropy(
            logits, batch.target.pixels.flatten(), ignore_index=VOID, reduction="sum"
        )
        boxes = answers.sum() * 0
        for answer, own in zip(answers[:, :4], batch.target.boxes, strict=True):
            boxes = boxes + (answer - own).abs().sum()
        weights = self.term_weights(batch)
        return {
            "terms": {
                "pixels": (pixels, weights["pixels"]),
                "boxes": (boxes, weights["boxes"]),
            },
            "brightness": batch.image.mean(),
        }

    def term_weights(self, batch: Batch) -> dict[str, float]:
        return {
            "pixels": int((batch.target.pixels != VOID).sum()),
            "boxes": sum(len(own) for own in batch.target.boxes),
        }


def step_of(objective: nn.Module, accumulate: int = 1, **settings) -> TrainStep:
    """An update of plain gradient descent that leaves its gradient behind."""
    return TrainStep(
        **{
            "forward": objective,
            "parameters": dict(objective.named_parameters()),
            "optimizer": torch.optim.SGD(objective.parameters(), 0.1),
            "device": torch.device("cpu"),
            "seed": 0,
            "accumulate": accumulate,
            "bf16": False,
            "clip_norm": 0.0,
            "term_weights": objective.term_weights,
            **settings,
        }
    )
