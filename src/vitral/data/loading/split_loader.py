"""Loader of a split as it is evaluated."""

from vitral.data.dataset import Dataset
from vitral.data.loading.clip_transforms import evaluation_transform
from vitral.data.loading.loader import Loader
from vitral.data.preprocess import Preprocess


def split_loader(
    dataset: Dataset,
    split: str,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
) -> Loader:
    """Return a loader of a split, or of all for "", as evaluated, in a fixed order."""
    return Loader(
        dataset=dataset,
        examples=dataset.select(split) if split else dataset.examples,
        transform=evaluation_transform(preprocess),
        batch_size=batch_size,
        workers=workers,
    )
