"""Divide the data of a fine-tuning: dev chooses the learning rate, test is measured."""

import logging
from dataclasses import replace

from vitral.data import Dataset
from vitral.data.split import FEW_VAL_IMAGES
from vitral.data.strata import choose_splits
from vitral.errors import DataError
from vitral.workflows.features import held_out_split

logger = logging.getLogger(__name__)

DEV_SEED = 20201211
"""Seed of the hash that selects the dev images of train; not that of a test split."""


def merge_val_into_train(dataset: Dataset) -> Dataset:
    """Return the data with val merged into train; the held-out split becomes test."""
    held_out = held_out_split(dataset)
    return replace(
        dataset,
        examples=tuple(
            replace(e, split="test" if e.split == held_out else "train")
            for e in dataset.examples
        ),
    )


def split_dev(dataset: Dataset, share: float) -> Dataset:
    """Move a share of each class from train to val, by a hash of path or group.

    Groups stay whole, and each class stays in train. A share too small for any image
    is doubled until one moves.
    """
    train = dataset.select("train")
    splits = ["train"]
    while "val" not in splits and share < 1:
        splits = choose_splits(
            train, dataset.classes, seed=DEV_SEED, val=share, test=0.0
        )
        share *= 2
    if set(splits) != {"train", "val"}:
        units = len({example.group or example.id for example in train})
        raise DataError(
            f"{dataset.name} has {units} images or groups to learn from: too few "
            "to choose a learning rate with. Give one rate with `lrs`."
        )
    chosen = iter(splits)
    examples = (
        example.with_split(next(chosen)) if example.split == "train" else example
        for example in dataset.examples
    )
    result = replace(dataset, examples=tuple(examples))
    count = len(result.select("val"))
    if count < FEW_VAL_IMAGES:
        logger.info(
            f"finetune: dev has fewer than {FEW_VAL_IMAGES} images ({count}): the "
            "choice of the rate is rough"
        )
    return result
