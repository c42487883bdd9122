"""Another use of a data set's splits: all of train, or a dev part cut out of it."""

from dataclasses import replace

from vitral.data import DataSet
from vitral.data.split import position
from vitral.errors import DataError
from vitral.run.probing import held_out_of

DEV_SEED = 0
"""Of the hash that says which images of train are dev."""


def everything(dataset: DataSet) -> DataSet:
    """Train with val as train, and what is measured as test."""
    held_out = held_out_of(dataset)
    return replace(
        dataset,
        examples=tuple(
            replace(example, split="test" if example.split == held_out else "train")
            for example in dataset.examples
        ),
    )


def with_dev(dataset: DataSet, share: float) -> DataSet:
    """A share of train as val, by a hash of the path or group; groups never part.

    Raises:
        DataError: nothing would be left of train.
    """
    keys = {example.group or example.id for example in dataset.select("train")}
    # Another word than the id alone, which may have decided what is test.
    order = sorted(keys, key=lambda key: position(DEV_SEED, f"dev {key}"))
    number = max(1, round(share * len(order)))
    if number >= len(order):
        raise DataError(
            f"{dataset.name} has {len(order)} images or groups to learn from: too few "
            "to choose a learning rate with. Give one rate with `--lrs`."
        )
    dev = set(order[:number])
    return replace(
        dataset,
        examples=tuple(
            replace(example, split="val")
            if example.split == "train" and (example.group or example.id) in dev
            else example
            for example in dataset.examples
        ),
    )
