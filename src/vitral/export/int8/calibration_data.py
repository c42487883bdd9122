"""Draw the images of a run to calibrate int8 on, and to check its accuracy on.

Activation ranges come from the train split only. The check uses val, or without val the
train images not calibrated on, which the model has learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from vitral.data import Dataset, Example, Preprocess, split_loader
from vitral.data.rng import generator_for
from vitral.errors import DataError
from vitral.export.run_openvino import Images
from vitral.workflows.dataset import open_run_data
from vitral.workflows.run import Run

CALIBRATION_IMAGES = 64
"""Images to measure activations on."""
CHECK_IMAGES = 2000
"""Largest number of val; a larger split is sampled."""
CHECK_BYTES = 2**30
"""Bytes of pre-processed pixels in memory: 1,700 images at 224 x 224."""
CHECK_TRAIN_IMAGES = 512
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class LabeledBatches:
    """Pre-processed images with their labels."""

    split: str
    ids: tuple[str, ...]
    batches: tuple[Images, ...]
    targets: tuple[Any, ...]
    """Target of each batch."""


@dataclass(frozen=True, kw_only=True)
class QuantizationData:
    """Images of a run to calibrate on and to check on."""

    calibration: LabeledBatches
    check: LabeledBatches

    @property
    def note(self) -> str:
        """Return a description of the check's images for the report."""
        if self.check.split == "val":
            return f"{len(self.check.ids)} images of val"
        return (
            f"{len(self.check.ids)} images of train that were not calibrated on, since "
            "the run has no val; the model has learned them, so measure the file on "
            "images that it has not seen"
        )


def draw_quantization_data(
    run: Run,
    *,
    seed: int = 0,
    calibration: int = CALIBRATION_IMAGES,
    check: int | None = None,
) -> QuantizationData:
    """Draw the images from the run's own data and split.

    Args:
        calibration: number of images of train, balanced over classes.
        check: largest number of images to check on; None for 2,000 of val, or 512 of
            train.
    """
    dataset = open_run_data(run)
    train = interleave_classes(dataset.select("train"), seed)
    chosen, rest = train[:calibration], train[calibration:]
    val = interleave_classes(dataset.select("val"), seed)
    split, candidates = ("val", val) if val else ("train", rest)
    if not candidates:
        raise DataError(
            f"{run.path}: the run has no val split, and all {len(train)} train images "
            "are needed for calibration: there is nothing to check int8 on. Train with "
            "`val=0.1`."
        )
    preprocess = run.preprocess.with_single_view()
    calibrated = load_labeled(dataset, "train", chosen, preprocess)
    limit = min(
        check or (CHECK_IMAGES if val else CHECK_TRAIN_IMAGES),
        CHECK_BYTES // calibrated.batches[0][0].nbytes,
    )
    return QuantizationData(
        calibration=calibrated,
        check=load_labeled(dataset, split, candidates[:limit], preprocess),
    )


def interleave_classes(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return all examples in an order fixed by `seed`, round-robin over classes."""
    classes: dict[int, list[Example]] = {}
    for example in examples:
        classes.setdefault(min(example.label, default=-1), []).append(example)
    columns = []
    for label, members in sorted(classes.items()):
        generator = generator_for("calibration", seed, label)
        order = generator.permutation(len(members))
        columns.append([members[int(i)] for i in order])
    interleaved = chain.from_iterable(zip_longest(*columns))
    return [example for example in interleaved if example is not None]


def load_labeled(
    dataset: Dataset, split: str, examples: Sequence[Example], preprocess: Preprocess
) -> LabeledBatches:
    """Decode `examples` as in evaluation, without unreadable ones."""
    chosen = replace(dataset, examples=tuple(examples))
    loader = split_loader(chosen, "", preprocess, batch_size=BATCH)
    batches = list(loader.epoch(0))
    return LabeledBatches(
        split=split,
        ids=tuple(name for batch in batches for name in batch.id),
        batches=tuple(batch.image.numpy() for batch in batches),
        targets=tuple(batch.target for batch in batches),
    )
