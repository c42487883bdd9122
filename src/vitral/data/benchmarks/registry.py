"""Table of the ViT paper's benchmarks: sizes, resolution, metrics and sources.

arXiv 2010.11929 fine-tunes on five sets and on the 19 tasks of VTAB-1k (arXiv
1910.04867); the few-shot sets are those of its released code. vtab.py divides them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vitral.errors import ConfigError
from vitral.validation import nearest_names

FULL = "/full"
"""Suffix of a VTAB name: all 1,000 images are train, once the settings are chosen."""
VTAB_TRAIN, VTAB_VAL = 800, 200


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


def _vtab(
    name: str, category: str, num_classes: int, test: int, source: str, obtained: str
) -> Benchmark:
    return Benchmark(
        name=f"vtab/{name}",
        group=f"vtab/{category}",
        num_classes=num_classes,
        train=VTAB_TRAIN,
        val=VTAB_VAL,
        test=test,
        source=source,
        obtained=obtained,
        downloads=obtained.startswith("torchvision"),
    )


def _fewshot(
    name: str, num_classes: int, train: int, test: int, source: str, obtained: str
) -> Benchmark:
    return Benchmark(
        name=f"fewshot/{name}",
        group="fewshot",
        num_classes=num_classes,
        train=train,
        val=0,
        test=test,
        resolution=224,
        source=source,
        obtained=obtained,
        downloads=obtained.startswith("torchvision"),
    )


_CIFAR = "Krizhevsky, 2009"
_PETS = "Parkhi et al., CVPR 2012"
_FLOWERS = "Nilsback and Zisserman, 2008"
_IMAGENET = "Russakovsky et al., arXiv 1409.0575"
_DTD = "Cimpoi et al., arXiv 1311.3618"
_CALTECH = "Fei-Fei et al., CVPR workshop 2004"
_CLEVR = "Johnson et al., arXiv 1612.06890"
_DSPRITES = "Matthey et al., 2017"
_NORB = "LeCun et al., CVPR 2004"
_DSPRITES_FILE = "dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_NORB_FILES = "smallnorb/smallnorb-5x*-{training,testing}-{dat,info}.mat"

_ROWS = (
    Benchmark(
        name="imagenet",
        group="paper",
        num_classes=1000,
        train=1_281_167,
        val=0,
        test=50_000,
        dev_share=0.01,
        metrics=("top1", "real"),
        source=_IMAGENET,
        obtained="files placed by hand, read by torchvision ImageNet",
        downloads=False,
    ),
    Benchmark(
        name="cifar10",
        group="paper",
        num_classes=10,
        train=50_000,
        val=0,
        test=10_000,
        dev_share=0.02,
        source=_CIFAR,
        obtained="torchvision CIFAR10",
    ),
    Benchmark(
        name="cifar100",
        group="paper",
        num_classes=100,
        train=50_000,
        val=0,
        test=10_000,
        dev_share=0.02,
        source=_CIFAR,
        obtained="torchvision CIFAR100",
    ),
    Benchmark(
        name="oxford_iiit_pet",
        group="paper",
        num_classes=37,
        train=3_680,
        val=0,
        test=3_669,
        dev_share=0.1,
        source=_PETS,
        obtained="torchvision OxfordIIITPet",
    ),
    Benchmark(
        name="flowers102",
        group="paper",
        num_classes=102,
        train=1_020,
        val=1_020,
        test=6_149,
        dev_share=0.1,
        source=_FLOWERS,
        obtained="torchvision Flowers102",
    ),
    _vtab("caltech101", "natural", 102, 6_084, _CALTECH, "torchvision Caltech101"),
    _vtab("cifar100", "natural", 100, 10_000, _CIFAR, "torchvision CIFAR100"),
    _vtab("dtd", "natural", 47, 1_880, _DTD, "torchvision DTD"),
    _vtab("flowers102", "natural", 102, 6_149, _FLOWERS, "torchvision Flowers102"),
    _vtab("pets", "natural", 37, 3_669, _PETS, "torchvision OxfordIIITPet"),
    _vtab(
        "sun397",
        "natural",
        397,
        21_750,
        "Xiao et al., CVPR 2010",
        "torchvision SUN397",
    ),
    _vtab(
        "svhn",
        "natural",
        10,
        26_032,
        "Netzer et al., 2011",
        "torchvision SVHN",
    ),
    _vtab(
        "camelyon",
        "specialised",
        2,
        32_768,
        "Veeling et al., arXiv 1806.03962",
        "torchvision PCAM",
    ),
    _vtab(
        "eurosat",
        "specialised",
        10,
        5_400,
        "Helber et al., arXiv 1709.00029",
        "torchvision EuroSAT",
    ),
    _vtab(
        "resisc45",
        "specialised",
        45,
        6_300,
        "Cheng et al., arXiv 1703.00121",
        "resisc45/NWPU-RESISC45/CLASS/*.jpg",
    ),
    _vtab(
        "retinopathy",
        "specialised",
        5,
        42_670,
        "Kaggle and EyePACS, 2015",
        "diabetic_retinopathy/{train,test}/*.jpeg and its two tables",
    ),
    _vtab(
        "clevr_count",
        "structured",
        8,
        15_000,
        _CLEVR,
        "torchvision CLEVRClassification",
    ),
    _vtab(
        "clevr_distance",
        "structured",
        6,
        15_000,
        _CLEVR,
        "torchvision CLEVRClassification",
    ),
    _vtab(
        "dmlab",
        "structured",
        6,
        22_735,
        "Zhai et al., arXiv 1910.04867",
        "dmlab/dmlab-{train,validation,test}.tfrecord",
    ),
    _vtab("dsprites_location", "structured", 16, 73_728, _DSPRITES, _DSPRITES_FILE),
    _vtab("dsprites_orientation", "structured", 16, 73_728, _DSPRITES, _DSPRITES_FILE),
    _vtab(
        "kitti_distance",
        "structured",
        4,
        711,
        "Geiger et al., CVPR 2012",
        "torchvision Kitti, and mapping/ of its devkit_object.zip",
    ),
    _vtab("norb_azimuth", "structured", 18, 12_150, _NORB, _NORB_FILES),
    _vtab("norb_elevation", "structured", 9, 12_150, _NORB, _NORB_FILES),
    _fewshot(
        "birds",
        200,
        5_994,
        5_794,
        "Wah et al., CNS-TR-2011-001",
        "CUB_200_2011/ as published",
    ),
    _fewshot("caltech101", 102, 3_060, 6_084, _CALTECH, "torchvision Caltech101"),
    _fewshot(
        "cars",
        196,
        8_144,
        8_041,
        "Krause et al., ICCV workshop 2013",
        "files placed by hand, read by torchvision StanfordCars",
    ),
    _fewshot("cifar100", 100, 50_000, 10_000, _CIFAR, "torchvision CIFAR100"),
    _fewshot(
        "col_hist",
        8,
        2_000,
        3_000,
        "Kather et al., Scientific Reports 2016",
        "Kather_texture_2016_image_tiles_5000/CLASS/*.tif",
    ),
    _fewshot("dtd", 47, 1_880, 1_880, _DTD, "torchvision DTD"),
    _fewshot(
        "imagenet",
        1000,
        65_000,
        50_000,
        _IMAGENET,
        "files placed by hand, read by torchvision ImageNet",
    ),
    _fewshot("pets", 37, 3_680, 3_669, _PETS, "torchvision OxfordIIITPet"),
    _fewshot(
        "uc_merced",
        21,
        1_000,
        1_100,
        "Yang and Newsam, ACM GIS 2010",
        "UCMerced_LandUse/Images/CLASS/*.tif",
    ),
)
BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
