"""How each torchvision classification set splits and where its labels and files are.

A row per name; named.py reads them. Videos, regressions and few-shot alphabets are not
here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Arguments = dict[str, Any]

_BY_FLAG: dict[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
_TWO: dict[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE: dict[str, Arguments] = {**_TWO, "val": {"split": "val"}}
# The published validation part has the public labels, so it serves as test.
_VAL_IS_TEST: dict[str, Arguments] = {
    "train": {"split": "train"},
    "test": {"split": "val"},
}
_WHOLE: dict[str, Arguments] = {"": {}}
DIGITS = tuple("0123456789")


def _pcam_labels(source: Any) -> Sequence[int]:
    file = source._base_folder / source._FILES[source._split]["targets"][0]
    with source.h5py.File(file) as targets:
        return [int(label) for label in targets["y"][:, 0, 0, 0]]


@dataclass(frozen=True, kw_only=True)
class Named:
    """How one torchvision data set is opened and read."""

    factory: str
    """Class in torchvision.datasets."""
    splits: dict[str, Arguments]
    """Our split to the constructor's arguments; "" is split by hash."""
    labels: str | Callable[[Any], Sequence[int]] = "_labels"
    """Attribute with a label, or a tuple that holds it, per example."""
    files: str = ""
    """Attribute with a path, or a tuple that starts with it; "" reads by index."""
    classes: str | tuple[str, ...] = "classes"
    """Attribute with the class names, or the names."""
    downloads: bool = True
    """Whether the class takes `download=True`."""
    folder: str = ""
    """Folder below the data root that the class is given as root."""


SETS: dict[str, Named] = {
    "caltech101": Named(
        factory="Caltech101", splits=_WHOLE, labels="y", classes="categories"
    ),
    "caltech256": Named(
        factory="Caltech256", splits=_WHOLE, labels="y", classes="categories"
    ),
    "cifar10": Named(factory="CIFAR10", splits=_BY_FLAG, labels="targets"),
    "cifar100": Named(factory="CIFAR100", splits=_BY_FLAG, labels="targets"),
    "clevr_counts": Named(
        factory="CLEVRClassification",
        splits=_VAL_IS_TEST,
        files="_image_files",
        classes=tuple(str(number) for number in range(11)),
    ),
    "country211": Named(
        factory="Country211",
        splits={**_TWO, "val": {"split": "valid"}},
        labels="samples",
        files="samples",
    ),
    "dtd": Named(factory="DTD", splits=_THREE, files="_image_files"),
    "emnist_balanced": Named(
        factory="EMNIST",
        splits={
            split: {"split": "balanced", **flag} for split, flag in _BY_FLAG.items()
        },
        labels="targets",
    ),
    "emnist_letters": Named(
        factory="EMNIST",
        splits={
            split: {"split": "letters", **flag} for split, flag in _BY_FLAG.items()
        },
        labels="targets",
    ),
    "eurosat": Named(
        factory="EuroSAT", splits=_WHOLE, labels="samples", files="samples"
    ),
    "fashion_mnist": Named(factory="FashionMNIST", splits=_BY_FLAG, labels="targets"),
    "fer2013": Named(
        factory="FER2013",
        splits=_TWO,
        labels="_samples",
        classes=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        downloads=False,
    ),
    "fgvc_aircraft": Named(factory="FGVCAircraft", splits=_THREE, files="_image_files"),
    "flowers102": Named(factory="Flowers102", splits=_THREE, files="_image_files"),
    "food101": Named(factory="Food101", splits=_TWO, files="_image_files"),
    # By index: the files are PPM, which the decoder does not take from users.
    "gtsrb": Named(
        factory="GTSRB",
        splits=_TWO,
        labels="_samples",
        classes=tuple(str(number) for number in range(43)),
    ),
    "imagenet": Named(
        factory="ImageNet",
        splits=_VAL_IS_TEST,
        labels="samples",
        files="samples",
        downloads=False,
        folder="imagenet",
    ),
    "imagenette": Named(
        factory="Imagenette", splits=_VAL_IS_TEST, labels="_samples", files="_samples"
    ),
    "inaturalist2021_mini": Named(
        factory="INaturalist",
        splits={
            "train": {"version": "2021_train_mini"},
            "test": {"version": "2021_valid"},
        },
        labels="index",
        classes="all_categories",
    ),
    "kmnist": Named(factory="KMNIST", splits=_BY_FLAG, labels="targets"),
    "mnist": Named(factory="MNIST", splits=_BY_FLAG, labels="targets"),
    "oxford_iiit_pet": Named(
        factory="OxfordIIITPet",
        splits={"train": {"split": "trainval"}, "test": {"split": "test"}},
        files="_images",
    ),
    "pcam": Named(
        factory="PCAM",
        splits=_THREE,
        labels=_pcam_labels,
        classes=("no tumour", "tumour"),
    ),
    "places365": Named(
        factory="Places365",
        splits={
            "train": {"split": "train-standard", "small": True},
            "test": {"split": "val", "small": True},
        },
        labels="imgs",
        files="imgs",
        folder="places365",
    ),
    "rendered_sst2": Named(
        factory="RenderedSST2", splits=_THREE, labels="_samples", files="_samples"
    ),
    "semeion": Named(factory="SEMEION", splits=_WHOLE, labels="labels", classes=DIGITS),
    "stanford_cars": Named(
        factory="StanfordCars",
        splits=_TWO,
        labels="_samples",
        files="_samples",
        downloads=False,
    ),
    "stl10": Named(factory="STL10", splits=_TWO, labels="labels"),
    "sun397": Named(factory="SUN397", splits=_WHOLE, files="_image_files"),
    "svhn": Named(factory="SVHN", splits=_TWO, labels="labels", classes=DIGITS),
    "usps": Named(factory="USPS", splits=_BY_FLAG, labels="targets", classes=DIGITS),
}
