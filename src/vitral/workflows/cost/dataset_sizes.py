"""Number of training images and classes of a run, from published sizes or the data."""

from dataclasses import dataclass
from pathlib import Path

from vitral.data.sources import TORCHVISION_DATASETS
from vitral.errors import ConfigError
from vitral.tasks import get_task
from vitral.workflows.config import TrainConfig
from vitral.workflows.dataset import open_data, run_input_kind


@dataclass(frozen=True, slots=True)
class PublishedSize:
    """Published size of a named data set."""

    images: int
    """Training images, with those that become val if no val split is published."""
    classes: int
    has_test: bool
    """True if a test split is published."""


PUBLISHED_SIZES = {
    "jft300m": PublishedSize(303_000_000, 18_291, has_test=False),
    "jft3b": PublishedSize(3_000_000_000, 29_593, has_test=False),
    "imagenet21k": PublishedSize(14_197_122, 21_843, has_test=False),
    "imagenet": PublishedSize(1_281_167, 1_000, has_test=True),
    "places365": PublishedSize(1_803_460, 365, has_test=True),
    "cifar10": PublishedSize(50_000, 10, has_test=True),
    "cifar100": PublishedSize(50_000, 100, has_test=True),
    "oxford_iiit_pet": PublishedSize(3_680, 37, has_test=True),
    "flowers102": PublishedSize(2_040, 102, has_test=True),
}
"""JFT-300M: images of arXiv 2010.11929 section 4.1, classes of 1912.11370. JFT-3B:
"nearly three billion" images (2106.04560). Both are private."""


@dataclass(frozen=True, slots=True)
class DatasetSize:
    """Training images and classes of a run."""

    images: int
    """Images of the training split."""
    classes: int
    """Outputs of the head, or the categories of a run without one."""
    counted: bool
    """True if the images were listed; False for published numbers."""


def get_dataset_size(config: TrainConfig) -> DatasetSize:
    """Return the training images and classes of a run, without downloading."""
    published = PUBLISHED_SIZES.get(config.data)
    if not Path(config.data).exists():
        if published is not None:
            held_out = config.val + (0.0 if published.has_test else config.test)
            images = int(published.images * (1 - held_out))
            return DatasetSize(images, published.classes, counted=False)
        if config.data in TORCHVISION_DATASETS:
            raise ConfigError(
                f"A plan downloads nothing, and the size of {config.data} is not known "
                f"before it is read: known are {', '.join(PUBLISHED_SIZES)}. Train on "
                "it once, or give the folder of the data."
            )
    dataset = open_data(config, run_input_kind(config))
    labels = get_task(config.objective.TASK).labels_of(dataset)
    outputs = len(labels.names) or len(dataset.classes)
    return DatasetSize(len(dataset.select("train")), outputs, counted=True)
