"""Published sizes of data sets, for whoever plans a run without having them here."""

from pathlib import Path
from typing import NamedTuple

from vitral.data.sources import SETS
from vitral.errors import ConfigError
from vitral.workflows.config import TrainConfig
from vitral.workflows.dataset import kind_of_run, open_data


class Published(NamedTuple):
    """What is known of a data set by its name."""

    images: int
    """For training, with those that become val where no val split is published."""
    classes: int
    tested: bool
    """Whether a split of its own is there to test on."""


PUBLISHED = {
    "jft300m": Published(303_000_000, 18_291, tested=False),
    "jft3b": Published(3_000_000_000, 29_593, tested=False),
    "imagenet21k": Published(14_197_122, 21_843, tested=False),
    "imagenet": Published(1_281_167, 1_000, tested=True),
    "places365": Published(1_803_460, 365, tested=True),
    "cifar10": Published(50_000, 10, tested=True),
    "cifar100": Published(50_000, 100, tested=True),
    "oxford_iiit_pet": Published(3_680, 37, tested=True),
    "flowers102": Published(2_040, 102, tested=True),
}
"""JFT-300M as arXiv 2010.11929 section 4.1 has it, its classes as 1912.11370; JFT-3B is
"nearly three billion" images (2106.04560). Neither can be had outside of its owner."""


class Size(NamedTuple):
    """How much a run has to learn from."""

    images: int
    """Of the training split."""
    classes: int
    counted: bool
    """Whether the images were listed here; False for published numbers."""


def size_of(config: TrainConfig) -> Size:
    """The training images and classes of a run; a published set is not looked for.

    Raises:
        ConfigError: it would have to be downloaded first.
        DataError: it cannot be opened.
    """
    known = PUBLISHED.get(config.data)
    if not Path(config.data).exists():
        if known is not None:
            held_out = config.val + (0.0 if known.tested else config.test)
            images = int(known.images * (1 - held_out))
            return Size(images, known.classes, counted=False)
        if config.data in SETS:
            raise ConfigError(
                f"A plan downloads nothing, and the size of {config.data} is not known "
                f"before it is read: known are {', '.join(PUBLISHED)}. Train on it "
                "once, or give the folder of the data."
            )
    dataset = open_data(config, kind_of_run(config))
    return Size(len(dataset.select("train")), len(dataset.classes), counted=True)
