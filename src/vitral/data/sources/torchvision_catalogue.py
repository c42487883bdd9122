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


def _emnist_splits(name: str) -> dict[str, Arguments]:
    return {split: {"split": name, **flag} for split, flag in _BY_FLAG.items()}


def _pcam_labels(source: Any) -> Sequence[int]:
    file = source._base_folder / source._FILES[source._split]["targets"][0]
    with source.h5py.File(file) as targets:
        return [int(label) for label in targets["y"][:, 0, 0, 0]]


@dataclass(frozen=True)
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
        "Caltech101", _NO_SPLITS, labels="y", classes="categories"
    ),
    "caltech256": TorchvisionSpec(
        "Caltech256", _NO_SPLITS, labels="y", classes="categories"
    ),
    "cifar10": TorchvisionSpec("CIFAR10", _BY_FLAG, labels="targets"),
    "cifar100": TorchvisionSpec("CIFAR100", _BY_FLAG, labels="targets"),
    "clevr_counts": TorchvisionSpec(
        "CLEVRClassification",
        _VAL_IS_TEST,
        files="_image_files",
        classes=tuple(str(number) for number in range(11)),
    ),
    "country211": TorchvisionSpec(
        "Country211",
        {**_TWO, "val": {"split": "valid"}},
        labels="samples",
        files="samples",
    ),
    "dtd": TorchvisionSpec("DTD", _THREE, files="_image_files"),
    "emnist_balanced": TorchvisionSpec(
        "EMNIST", _emnist_splits("balanced"), labels="targets"
    ),
    "emnist_letters": TorchvisionSpec(
        "EMNIST", _emnist_splits("letters"), labels="targets"
    ),
    "eurosat": TorchvisionSpec(
        "EuroSAT", _NO_SPLITS, labels="samples", files="samples"
    ),
    "fashion_mnist": TorchvisionSpec("FashionMNIST", _BY_FLAG, labels="targets"),
    "fer2013": TorchvisionSpec(
        "FER2013",
        _TWO,
        labels="_samples",
        classes=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        downloads=False,
    ),
    "fgvc_aircraft": TorchvisionSpec("FGVCAircraft", _THREE, files="_image_files"),
    "flowers102": TorchvisionSpec("Flowers102", _THREE, files="_image_files"),
    "food101": TorchvisionSpec("Food101", _TWO, files="_image_files"),
    # By index: the files are PPM, which the decoder does not take from users.
    "gtsrb": TorchvisionSpec(
        "GTSRB",
        _TWO,
        labels="_samples",
        classes=tuple(str(number) for number in range(43)),
    ),
    "imagenet": TorchvisionSpec(
        "ImageNet",
        _VAL_IS_TEST,
        labels="samples",
        files="samples",
        downloads=False,
        folder="imagenet",
    ),
    "imagenette": TorchvisionSpec(
        "Imagenette", _VAL_IS_TEST, labels="_samples", files="_samples"
    ),
    "inaturalist2021_mini": TorchvisionSpec(
        "INaturalist",
        {
            "train": {"version": "2021_train_mini"},
            "test": {"version": "2021_valid"},
        },
        labels="index",
        classes="all_categories",
    ),
    "kmnist": TorchvisionSpec("KMNIST", _BY_FLAG, labels="targets"),
    "mnist": TorchvisionSpec("MNIST", _BY_FLAG, labels="targets"),
    "oxford_iiit_pet": TorchvisionSpec(
        "OxfordIIITPet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        files="_images",
    ),
    "pcam": TorchvisionSpec(
        "PCAM", _THREE, labels=_pcam_labels, classes=("no tumour", "tumour")
    ),
    "places365": TorchvisionSpec(
        "Places365",
        {
            "train": {"split": "train-standard", "small": True},
            "test": {"split": "val", "small": True},
        },
        labels="imgs",
        files="imgs",
        folder="places365",
    ),
    "rendered_sst2": TorchvisionSpec(
        "RenderedSST2", _THREE, labels="_samples", files="_samples"
    ),
    "semeion": TorchvisionSpec("SEMEION", _NO_SPLITS, labels="labels", classes=DIGITS),
    "stanford_cars": TorchvisionSpec(
        "StanfordCars", _TWO, labels="_samples", files="_samples", downloads=False
    ),
    "stl10": TorchvisionSpec("STL10", _TWO, labels="labels"),
    "sun397": TorchvisionSpec("SUN397", _NO_SPLITS, files="_image_files"),
    "svhn": TorchvisionSpec("SVHN", _TWO, labels="labels", classes=DIGITS),
    "usps": TorchvisionSpec("USPS", _BY_FLAG, labels="targets", classes=DIGITS),
}
