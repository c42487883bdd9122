"""Table of the ViT paper's benchmarks: sizes, resolution, metrics and sources.

arXiv 2010.11929 fine-tunes on five sets and on the 19 tasks of VTAB-1k (arXiv
1910.04867); the few-shot sets are those of its released code. vtab.py divides them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vitral.errors import ConfigError
from vitral.validation import nearest_names

FULL = "/full"
"""Suffix of a VTAB name: all 1,000 images are train, once the settings are chosen."""
VTAB_TRAIN, VTAB_VAL = 800, 200
_BY_HAND = "files placed by hand, read by torchvision"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set as the paper uses it; sizes are numbers of images."""

    name: str
    """Name for `vitral.data.open`."""
    group: str
    """"paper", "vtab/natural", "vtab/specialised", "vtab/structured" or "fewshot"."""
    num_classes: int
    train: int
    val: int
    """0: no val is published."""
    test: int
    dev_share: float = 0.0
    """Fraction of train on which the paper chose its learning rate. 0: it used val."""
    resolution: int = 384
    """Side in pixels for fine-tuning, or of the crop for few-shot features."""
    metrics: tuple[str, ...] = ("top1",)
    """The first is the main metric. "real" needs real.json, see evaluation.real."""
    source: str
    """Publication of the data set."""
    obtained: str
    """Origin of the files: a torchvision class, or a folder below the data root."""
    downloads: bool = True
    """True if vitral can download it; otherwise the user places its files."""


def benchmark(name: str) -> Benchmark:
    """Return the row of a data set; NAME/full of a VTAB task trains on 1,000 images.

    Raises:
        ConfigError: no benchmark has this name; the message lists the nearest ones.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    task = BENCHMARKS.get(name.removesuffix(FULL))
    if task is not None and task.name.startswith("vtab/"):
        return replace(task, name=name, train=task.train + task.val, val=0)
    near = nearest_names(name, (*BENCHMARKS, *groups()), count=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}" if near else f"All: {', '.join(BENCHMARKS)}"
    raise ConfigError(f"No benchmark is named {name!r}. {hint}.")


def groups() -> dict[str, tuple[str, ...]]:
    """Return the data sets of each group, in the order of the paper's tables."""
    members: dict[str, tuple[str, ...]] = {}
    for row in BENCHMARKS.values():
        for group in dict.fromkeys((row.group.split("/")[0], row.group)):
            members[group] = (*members.get(group, ()), row.name)
    return members


def expand(entries: Iterable[str]) -> tuple[str, ...]:
    """Replace groups by their data sets, without repeats, in order.

    Other entries stay: a name, a folder or a table.
    """
    members = groups()
    names = [name for entry in entries for name in members.get(entry, (entry,))]
    return tuple(dict.fromkeys(names))


def _list_rows() -> Iterator[Benchmark]:
    """Yield the rows in the order of the paper's tables."""
    for name, (origin, *sizes, dev_share) in _PAPER.items():
        row = _make_row(name, "paper", origin, sizes)
        metrics = ("top1", "real") if name == "imagenet" else row.metrics
        yield replace(row, dev_share=dev_share, metrics=metrics)
    for category, tests in _VTAB.items():
        for name, test in tests.items():
            sizes = [VTAB_TRAIN, VTAB_VAL, test]
            yield _make_row(f"vtab/{name}", f"vtab/{category}", name, sizes)
    for name, (train, test) in _FEWSHOT.items():
        row = _make_row(f"fewshot/{name}", "fewshot", name, [train, 0, test])
        yield replace(row, resolution=224)


def _make_row(name: str, group: str, origin: str, sizes: list[int]) -> Benchmark:
    num_classes, source, obtained = _ORIGINS[origin]
    train, val, test = sizes
    return Benchmark(
        name=name,
        group=group,
        num_classes=num_classes,
        train=train,
        val=val,
        test=test,
        source=source,
        obtained=obtained,
        downloads=obtained.startswith("torchvision"),
    )


_CLEVR = "Johnson et al., arXiv 1612.06890", "torchvision CLEVRClassification"
_DSPRITES = (
    "Matthey et al., 2017",
    "dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
)
_NORB = (
    "LeCun et al., CVPR 2004",
    "smallnorb/smallnorb-5x*-{training,testing}-{dat,info}.mat",
)
_ORIGINS: dict[str, tuple[int, str, str]] = {
    "birds": (200, "Wah et al., CNS-TR-2011-001", "CUB_200_2011/ as published"),
    "caltech101": (102, "Fei-Fei et al., CVPR workshop 2004", "torchvision Caltech101"),
    "camelyon": (2, "Veeling et al., arXiv 1806.03962", "torchvision PCAM"),
    "cars": (196, "Krause et al., ICCV workshop 2013", f"{_BY_HAND} StanfordCars"),
    "cifar10": (10, "Krizhevsky, 2009", "torchvision CIFAR10"),
    "cifar100": (100, "Krizhevsky, 2009", "torchvision CIFAR100"),
    "clevr_count": (8, *_CLEVR),
    "clevr_distance": (6, *_CLEVR),
    "col_hist": (
        8,
        "Kather et al., Scientific Reports 2016",
        "Kather_texture_2016_image_tiles_5000/CLASS/*.tif",
    ),
    "dmlab": (
        6,
        "Zhai et al., arXiv 1910.04867",
        "dmlab/dmlab-{train,validation,test}.tfrecord",
    ),
    "dsprites_location": (16, *_DSPRITES),
    "dsprites_orientation": (16, *_DSPRITES),
    "dtd": (47, "Cimpoi et al., arXiv 1311.3618", "torchvision DTD"),
    "eurosat": (10, "Helber et al., arXiv 1709.00029", "torchvision EuroSAT"),
    "flowers102": (102, "Nilsback and Zisserman, 2008", "torchvision Flowers102"),
    "imagenet": (1000, "Russakovsky et al., arXiv 1409.0575", f"{_BY_HAND} ImageNet"),
    "kitti_distance": (
        4,
        "Geiger et al., CVPR 2012",
        "torchvision Kitti, and mapping/ of its devkit_object.zip",
    ),
    "norb_azimuth": (18, *_NORB),
    "norb_elevation": (9, *_NORB),
    "pets": (37, "Parkhi et al., CVPR 2012", "torchvision OxfordIIITPet"),
    "resisc45": (
        45,
        "Cheng et al., arXiv 1703.00121",
        "resisc45/NWPU-RESISC45/CLASS/*.jpg",
    ),
    "retinopathy": (
        5,
        "Kaggle and EyePACS, 2015",
        "diabetic_retinopathy/{train,test}/*.jpeg and its two tables",
    ),
    "sun397": (397, "Xiao et al., CVPR 2010", "torchvision SUN397"),
    "svhn": (10, "Netzer et al., 2011", "torchvision SVHN"),
    "uc_merced": (
        21,
        "Yang and Newsam, ACM GIS 2010",
        "UCMerced_LandUse/Images/CLASS/*.tif",
    ),
}
"""Classes, publication and origin of the files of each set."""
_PAPER: dict[str, tuple[str, int, int, int, float]] = {
    "imagenet": ("imagenet", 1_281_167, 0, 50_000, 0.01),
    "cifar10": ("cifar10", 50_000, 0, 10_000, 0.02),
    "cifar100": ("cifar100", 50_000, 0, 10_000, 0.02),
    "oxford_iiit_pet": ("pets", 3_680, 0, 3_669, 0.1),
    "flowers102": ("flowers102", 1_020, 1_020, 6_149, 0.1),
}
"""Origin, images of train, val and test, and `dev_share`."""
_VTAB = {
    "natural": {
        "caltech101": 6_084,
        "cifar100": 10_000,
        "dtd": 1_880,
        "flowers102": 6_149,
        "pets": 3_669,
        "sun397": 21_750,
        "svhn": 26_032,
    },
    "specialised": {
        "camelyon": 32_768,
        "eurosat": 5_400,
        "resisc45": 6_300,
        "retinopathy": 42_670,
    },
    "structured": {
        "clevr_count": 15_000,
        "clevr_distance": 15_000,
        "dmlab": 22_735,
        "dsprites_location": 73_728,
        "dsprites_orientation": 73_728,
        "kitti_distance": 711,
        "norb_azimuth": 12_150,
        "norb_elevation": 12_150,
    },
}
"""Images of test."""
_FEWSHOT = {
    "birds": (5_994, 5_794),
    "caltech101": (3_060, 6_084),
    "cars": (8_144, 8_041),
    "cifar100": (50_000, 10_000),
    "col_hist": (2_000, 3_000),
    "dtd": (1_880, 1_880),
    "imagenet": (65_000, 50_000),
    "pets": (3_680, 3_669),
    "uc_merced": (1_000, 1_100),
}
"""Images of train and test."""
BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _list_rows()}
