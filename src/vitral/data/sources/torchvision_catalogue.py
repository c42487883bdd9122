"""Table of torchvision's classification sets: splits, labels and files of each.

Without videos, regressions and few-shot alphabets; torchvision_datasets.py reads them.
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
_NO_SPLITS: dict[str, Arguments] = {"": {}}
DIGITS = tuple("0123456789")


def _pcam_labels(source: Any) -> Sequence[int]:
    file = source._base_folder / source._FILES[source._split]["targets"][0]
    with source.h5py.File(file) as targets:
        return [int(label) for label in targets["y"][:, 0, 0, 0]]


@dataclass(frozen=True, kw_only=True)
class TorchvisionSpec:
    """Arguments and attributes to open and read one torchvision data set."""

    factory: str
    """Class in torchvision.datasets."""
    splits: dict[str, Arguments]
    """Constructor arguments by split; "" is split by hash."""
    labels: str | Callable[[Any], Sequence[int]] = "_labels"
    """Attribute with a label, or a tuple that holds it, per example."""
    files: str = ""
    """Attribute with a path, or a tuple that starts with it; "" reads by index."""
    classes: str | tuple[str, ...] = "classes"
    """Attribute with the class names, or the names."""
    downloads: bool = True
    """True if the class accepts `download=True`."""
    folder: str = ""
    """Folder below the data root that is passed as root."""


TORCHVISION_DATASETS: dict[str, TorchvisionSpec] = {
    "caltech101": TorchvisionSpec(
        factory="Caltech101", splits=_NO_SPLITS, labels="y", classes="categories"
    ),
    "caltech256": TorchvisionSpec(
        factory="Caltech256", splits=_NO_SPLITS, labels="y", classes="categories"
    ),
    "cifar10": TorchvisionSpec(factory="CIFAR10", splits=_BY_FLAG, labels="targets"),
    "cifar100": TorchvisionSpec(factory="CIFAR100", splits=_BY_FLAG, labels="targets"),
    "clevr_counts": TorchvisionSpec(
        factory="CLEVRClassification",
        splits=_VAL_IS_TEST,
        files="_image_files",
        classes=tuple(str(number) for number in range(11)),
    ),
    "country211": TorchvisionSpec(
        factory="Country211",
        splits={**_TWO, "val": {"split": "valid"}},
        labels="samples",
        files="samples",
    ),
    "dtd": TorchvisionSpec(factory="DTD", splits=_THREE, files="_image_files"),
    "emnist_balanced": TorchvisionSpec(
        factory="EMNIST",
        splits={
            split: {"split": "balanced", **flag} for split, flag in _BY_FLAG.items()
        },
        labels="targets",
    ),
    "emnist_letters": TorchvisionSpec(
        factory="EMNIST",
        splits={
            split: {"split": "letters", **flag} for split, flag in _BY_FLAG.items()
        },
        labels="targets",
    ),
    "eurosat": TorchvisionSpec(
        factory="EuroSAT", splits=_NO_SPLITS, labels="samples", files="samples"
    ),
    "fashion_mnist": TorchvisionSpec(
        factory="FashionMNIST", splits=_BY_FLAG, labels="targets"
    ),
    "fer2013": TorchvisionSpec(
        factory="FER2013",
        splits=_TWO,
        labels="_samples",
        classes=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        downloads=False,
    ),
    "fgvc_aircraft": TorchvisionSpec(
        factory="FGVCAircraft", splits=_THREE, files="_image_files"
    ),
    "flowers102": TorchvisionSpec(
        factory="Flowers102", splits=_THREE, files="_image_files"
    ),
    "food101": TorchvisionSpec(factory="Food101", splits=_TWO, files="_image_files"),
    # By index: the files are PPM, which the decoder does not take from users.
    "gtsrb": TorchvisionSpec(
        factory="GTSRB",
        splits=_TWO,
        labels="_samples",
        classes=tuple(str(number) for number in range(43)),
    ),
    "imagenet": TorchvisionSpec(
        factory="ImageNet",
        splits=_VAL_IS_TEST,
        labels="samples",
        files="samples",
        downloads=False,
        folder="imagenet",
    ),
    "imagenette": TorchvisionSpec(
        factory="Imagenette", splits=_VAL_IS_TEST, labels="_samples", files="_samples"
    ),
    "inaturalist2021_mini": TorchvisionSpec(
        factory="INaturalist",
        splits={
            "train": {"version": "2021_train_mini"},
            "test": {"version": "2021_valid"},
        },
        labels="index",
        classes="all_categories",
    ),
    "kmnist": TorchvisionSpec(factory="KMNIST", splits=_BY_FLAG, labels="targets"),
    "mnist": TorchvisionSpec(factory="MNIST", splits=_BY_FLAG, labels="targets"),
    "oxford_iiit_pet": TorchvisionSpec(
        factory="OxfordIIITPet",
        splits={"train": {"split": "trainval"}, "test": {"split": "test"}},
        files="_images",
    ),
    "pcam": TorchvisionSpec(
        factory="PCAM",
        splits=_THREE,
        labels=_pcam_labels,
        classes=("no tumour", "tumour"),
    ),
    "places365": TorchvisionSpec(
        factory="Places365",
        splits={
            "train": {"split": "train-standard", "small": True},
            "test": {"split": "val", "small": True},
        },
        labels="imgs",
        files="imgs",
        folder="places365",
    ),
    "rendered_sst2": TorchvisionSpec(
        factory="RenderedSST2", splits=_THREE, labels="_samples", files="_samples"
    ),
    "semeion": TorchvisionSpec(
        factory="SEMEION", splits=_NO_SPLITS, labels="labels", classes=DIGITS
    ),
    "stanford_cars": TorchvisionSpec(
        factory="StanfordCars",
        splits=_TWO,
        labels="_samples",
        files="_samples",
        downloads=False,
    ),
    "stl10": TorchvisionSpec(factory="STL10", splits=_TWO, labels="labels"),
    "sun397": TorchvisionSpec(
        factory="SUN397", splits=_NO_SPLITS, files="_image_files"
    ),
    "svhn": TorchvisionSpec(
        factory="SVHN", splits=_TWO, labels="labels", classes=DIGITS
    ),
    "usps": TorchvisionSpec(
        factory="USPS", splits=_BY_FLAG, labels="targets", classes=DIGITS
    ),
}
