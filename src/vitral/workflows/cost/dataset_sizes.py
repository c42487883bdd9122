"""Published sizes of data sets, for whoever plans a run without having them here."""

from pathlib import Path
from typing import NamedTuple

from vitral.data.sources import TORCHVISION_DATASETS
from vitral.errors import ConfigError
from vitral.workflows.config import TrainConfig
from vitral.workflows.dataset import open_data, run_input_kind


class PublishedSize(NamedTuple):
    """What is known of a data set by its name."""

    images: int
    """For training, with those that become val where no val split is published."""
    classes: int
    has_test: bool
    """Whether a split of its own is there to test on."""


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
"""JFT-300M as arXiv 2010.11929 section 4.1 has it, its classes as 1912.11370; JFT-3B is
"nearly three billion" images (2106.04560). Neither can be had outside of its owner."""


class DatasetSize(NamedTuple):
    """How much a run has to learn from."""

    images: int
    """Of the training split."""
    classes: int
    counted: bool
    """Whether the images were listed here; False for published numbers."""


def get_dataset_size(config: TrainConfig) -> DatasetSize:
    """The training images and classes of a run; a published set is not looked for.

    Raises:
        ConfigError: it would have to be downloaded first.
        DataError: it cannot be opened.
    """
    known = PUBLISHED_SIZES.get(config.data)
    if not Path(config.data).exists():
        if known is not None:
            held_out = config.val + (0.0 if known.has_test else config.test)
            images = int(known.images * (1 - held_out))
            return DatasetSize(images, known.classes, counted=False)
        if config.data in TORCHVISION_DATASETS:
            raise ConfigError(
                f"A plan downloads nothing, and the size of {config.data} is not known "
                f"before it is read: known are {', '.join(PUBLISHED_SIZES)}. Train on "
                "it "
                "once, or give the folder of the data."
            )
    dataset = open_data(config, run_input_kind(config))
    return DatasetSize(len(dataset.select("train")), len(dataset.classes), counted=True)
