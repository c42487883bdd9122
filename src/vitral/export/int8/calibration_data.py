"""The images of a run that int8 is made with: to calibrate on, and to check on.

Ranges of activations come from the train split alone. The bound on accuracy is held on
val; a run without val is checked on train images that were not calibrated on, of which
it must be said that the model has learned them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from vitral.data import Dataset, Example, Loader, Preprocess, evaluation_transform
from vitral.data.rng import generator_for
from vitral.errors import DataError
from vitral.export.run_openvino import Images
from vitral.workflows.dataset import open_split_data
from vitral.workflows.inputs import input_kind, with_single_view
from vitral.workflows.run import Run

CALIBRATION_IMAGES = 64
"""Images whose activations are looked at."""
CHECK_IMAGES = 2000
"""Of val; a larger split is sampled."""
CHECK_BYTES = 2**30
"""Of pre-processed pixels, which stay in memory: 1,700 images at 224 x 224."""
CHECK_TRAIN_IMAGES = 512
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class LabeledBatches:
    """Pre-processed images with what they show."""

    split: str
    ids: tuple[str, ...]
    batches: tuple[Images, ...]
    targets: np.ndarray
    """One-hot, soft or multi-hot, [examples, classes]."""
    labels: np.ndarray
    """Class index, [examples]."""


@dataclass(frozen=True, kw_only=True)
class QuantizationData:
    """What a quantisation needs of a run."""

    calibration: LabeledBatches
    check: LabeledBatches

    @property
    def note(self) -> str:
        """What the images of the check are, for the report."""
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
    """Draw from the run's own data, with the run's own split.

    Args:
        calibration: images of train, as many of each class as there are.
        check: images at most that the bound is held on; None for 2,000 of val, or 512
            of train.

    Raises:
        DataError: the data cannot be opened any more, or train is too small.
    """
    dataset = open_split_data(
        run.config, run.path / "split.csv", input_kind(run.model.config)
    )
    train = interleave_classes(dataset.select("train"), seed)
    chosen, left = train[:calibration], train[calibration:]
    val = interleave_classes(dataset.select("val"), seed)
    split, held = ("val", val) if val else ("train", left)
    if not held:
        raise DataError(
            f"{run.path}: the run has no val split, and all {len(train)} train images "
            "are needed for calibration: there is nothing to check int8 on. Train with "
            "`--val 0.1`."
        )
    preprocess = with_single_view(run.preprocess)
    calibrated = load_labeled(dataset, "train", chosen, preprocess)
    most = min(
        check or (CHECK_IMAGES if val else CHECK_TRAIN_IMAGES),
        CHECK_BYTES // calibrated.batches[0][0].nbytes,
    )
    return QuantizationData(
        calibration=calibrated,
        check=load_labeled(dataset, split, held[:most], preprocess),
    )


def interleave_classes(examples: Sequence[Example], seed: int) -> list[Example]:
    """All examples in an order fixed by `seed`, the classes taking turns."""
    classes: dict[int, list[Example]] = {}
    for example in examples:
        classes.setdefault(min(example.label, default=-1), []).append(example)
    columns = []
    for label, members in sorted(classes.items()):
        generator = generator_for("calibration", seed, label)
        order = generator.permutation(len(members))
        columns.append([members[int(i)] for i in order])
    turns = chain.from_iterable(zip_longest(*columns))
    return [example for example in turns if example is not None]


def load_labeled(
    dataset: Dataset, split: str, examples: Sequence[Example], preprocess: Preprocess
) -> LabeledBatches:
    """Decode `examples` as in evaluation; those that cannot be are left out."""
    loader = Loader(
        dataset=dataset,
        examples=tuple(examples),
        transform=evaluation_transform(preprocess),
        batch_size=BATCH,
    )
    batches = list(loader.epoch(0))
    return LabeledBatches(
        split=split,
        ids=tuple(name for batch in batches for name in batch.id),
        batches=tuple(batch.image.numpy() for batch in batches),
        targets=np.concatenate([batch.target.numpy() for batch in batches]),
        labels=np.concatenate([batch.label.numpy() for batch in batches]),
    )
