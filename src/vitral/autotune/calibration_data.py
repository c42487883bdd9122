"""Images of a run for a sweep, pre-processed in each size."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitral.data import Dataset, split_loader
from vitral.errors import ConfigError
from vitral.weights import is_exported
from vitral.workflows.dataset import open_run_data
from vitral.workflows.run import Run

CALIBRATION_IMAGES = 64
"""Images of the train split that int8 is calibrated on."""


def open_images(run: Run, split: str) -> Dataset:
    """Open the data set of a run whose task can be scored image by image.

    Raises:
        ConfigError: the run has another kind of model, or no such split.
    """
    if is_exported(run.path):
        raise ConfigError(
            f"{run.path} is exported already, and its runtime, precision and merging "
            "are fixed in it. tune-speed tries them out: give the run that it was "
            "exported from."
        )
    run.require_head()
    run.preprocess.require_images(
        "tune-speed times and scores images: the model of this run takes clips."
    )
    run.task.require("tune-speed", run.labels, str(run.path))
    dataset = open_run_data(run)
    splits = list(dataset.counts())
    if split not in splits:
        raise ConfigError(
            f"The run has no split `{split}`, it has {', '.join(splits)}. An operating "
            "point that is chosen on test is no longer measured by test: say so with "
            "`split=test`, or train with a val split."
        )
    return dataset


class SweepImages:
    """Pre-processed images of each size, cached for one size at a time."""

    def __init__(
        self, run: Run, dataset: Dataset, *, split: str, images: int, seed: int
    ) -> None:
        """Draw at most `images` of the split."""
        self.run, self._dataset, self._split = run, dataset, split
        self._images, self._seed = images, seed
        self._size: tuple[int, int] | None = None
        self._cached: tuple[list[Tensor], list[Any]] = ([], [])

    def load_scored(self, size: tuple[int, int]) -> tuple[list[Tensor], list[Any]]:
        """Return batches of images, and the target of each."""
        if size != self._size:
            self._size = None
            self._cached = self._read(self._split, self._images, size)
            self._size = size
        return self._cached

    def calibration(self, size: tuple[int, int]) -> list[Tensor]:
        """Return batches of the train split."""
        return self._read("train", CALIBRATION_IMAGES, size)[0]

    def batch(self, size: tuple[int, int], count: int) -> Tensor:
        """Return a batch of `count` images, repeated if there are fewer."""
        images = torch.cat(list(_take_images(self.load_scored(size)[0], count)))
        times = -(-count // len(images))
        return images.repeat(times, 1, 1, 1)[:count].contiguous()

    def _read(
        self, split: str, count: int, size: tuple[int, int]
    ) -> tuple[list[Tensor], list[Any]]:
        examples = list(self._dataset.select(split))
        order = np.random.default_rng(self._seed).permutation(len(examples))
        chosen = tuple(examples[index] for index in sorted(order[:count]))
        loader = split_loader(
            replace(self._dataset, examples=chosen),
            "",
            replace(self.run.preprocess, image_size=size),
            batch_size=16,
        )
        batches = list(loader.epoch(0))
        targets = [batch.target for batch in batches]
        return [batch.image for batch in batches], targets


def _take_images(batches: list[Tensor], count: int) -> Iterator[Tensor]:
    """Yield batches until they have `count` images."""
    taken = 0
    for batch in batches:
        if taken >= count:
            return
        taken += len(batch)
        yield batch
