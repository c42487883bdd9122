"""Summary of a data set for recipes: number and size of its images or clips."""

import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np

import vitral.data
from vitral.data import Dataset
from vitral.errors import DataError, ImageError
from vitral.tasks import Labels, ObjectiveConfig, Task, choose_task, get_task
from vitral.workflows.dataset import SplitRequest, open_for_task

SAMPLE = 64
"""Images that are opened to measure the median size."""


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Facts about a data set that decide a recipe's settings."""

    num_images: int
    num_classes: int
    height: int
    """Median, in pixels."""
    width: int
    grey: bool
    """True if no opened image has colour."""
    kind: Literal["images", "clips"]
    task: str
    """Name of the task that the data fits."""
    labels: Labels
    """Outputs of a head for that task."""

    def objective(self, smoothing: float = 0.0) -> ObjectiveConfig:
        """Return the task's objective for these labels.

        Args:
            smoothing: label smoothing, where the task has one.
        """
        return get_task(self.task).default_objective(self.labels, smoothing)

    def describe_labels(self) -> str:
        """Return the task and its labels in a few words."""
        return f"{self.task}, {get_task(self.task).describe(self.labels)}"


def summarize_dataset(
    data: str, kind: Literal["auto", "images", "clips"] = "auto"
) -> DatasetSummary:
    """List the examples of `data` and open a few of them.

    Args:
        kind: as `vitral.data.open` takes it.

    Raises:
        DataError: none of the images that were tried can be decoded.
    """
    task, dataset = _open_for_its_task(data, kind)
    examples = dataset.examples
    sizes: list[tuple[int, int]] = []
    grey = True
    for example in examples[:: max(1, len(examples) // SAMPLE)]:
        try:
            decoded = dataset.decode(example)
        except ImageError:
            continue
        image = decoded.image
        sizes.append((image.height, image.width // decoded.frames))
        pixels = np.asarray(image)
        grey = grey and bool((pixels == pixels[..., :1]).all())
    if not sizes:
        raise DataError(
            f"None of the {dataset.kind} of {data} that were tried can be decoded. Run "
            f"`vitral data check {data}` to see each with its reason."
        )
    return DatasetSummary(
        num_images=len(examples),
        num_classes=len(dataset.classes),
        height=round(statistics.median(height for height, _ in sizes)),
        width=round(statistics.median(width for _, width in sizes)),
        grey=grey,
        kind=dataset.kind,
        task=task.name,
        labels=task.labels_of(dataset),
    )


def _open_for_its_task(
    data: str, kind: Literal["auto", "images", "clips"]
) -> tuple[Task, Dataset]:
    """Open the data as the task reads it that it fits; without labels if none does."""
    choice = choose_task(vitral.data.describe_source(data))
    task = choice.task if choice is not None else get_task(ObjectiveConfig.TASK)
    settings = task.objectives[0]()
    if choice is None:
        return task, vitral.data.open(data, kind=kind, labels="optional")
    return task, open_for_task(SplitRequest(data=data), settings, kind)
