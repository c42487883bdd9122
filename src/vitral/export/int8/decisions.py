"""Decisions of a graph on images, as its task counts them."""

from dataclasses import dataclass

import numpy as np

from vitral.export.int8.calibration_data import LabeledBatches
from vitral.export.run_openvino import Logits
from vitral.tasks import Labels, Task


@dataclass(frozen=True, slots=True)
class Decisions:
    """A task with the labels of one model."""

    task: Task
    labels: Labels

    def score(self, outputs: Logits, images: LabeledBatches) -> np.ndarray:
        """Return how good each decision is, over all batches of `images`."""
        scores, first = [], 0
        for batch, target in zip(images.batches, images.targets, strict=True):
            rows = outputs[first : first + len(batch)]
            scores.append(self.task.score(rows, target, self.labels))
            first += len(batch)
        return np.concatenate(scores)

    def agreement(self, outputs: Logits, others: Logits) -> float:
        """Return the fraction of equal decisions."""
        return float(self.task.agreement(outputs, others, self.labels).mean())
