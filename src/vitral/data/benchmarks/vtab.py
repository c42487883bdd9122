"""Table of readers and splits for VTAB's 19 tasks and the few-shot sets.

Splits are those of VTAB's code (task_adaptation) and of the few-shot settings of
big_vision and scenic. Sizes and sources are in registry.py.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vitral.data.benchmarks import clevr_kitti, local_files, norb_dsprites
from vitral.data.benchmarks.local_files import (
    SplitsReader,
    class_folder_reader,
    dataset_reader,
    torchvision_reader,
)
from vitral.data.benchmarks.registry import FULL, VTAB_TRAIN, VTAB_VAL, groups
from vitral.data.benchmarks.subsets import SplitSlice, draw_subset
from vitral.data.dataset import Dataset
from vitral.data.sources import default_root

FIXED_SPLITS_NOTE = (
    "train, val and test are the benchmark's; a seed or share does not move them"
)


@dataclass(frozen=True, slots=True)
class BenchmarkTask:
    """Reader and splits of a task."""

    read: SplitsReader
    train: SplitSlice
    val: SplitSlice | None
    test: SplitSlice


def _file_name(id_: str) -> str:
    return id_.rpartition("/")[2]


def _class_and_name(id_: str) -> str:
    return "/".join(id_.split("/")[-2:])


def _class_underscore_name(id_: str) -> str:
    return "_".join(id_.split("/")[-2:])


def _file_number(id_: str) -> str:
    return str(int(_file_name(id_)))


def _camelyon(id_: str) -> str:
    split = id_.split("/")[1]
    return f"{'valid' if split == 'val' else split}_{_file_number(id_)}"


_TEST = SplitSlice("test")
_TRAIN_AND_TEST = SplitSlice("train"), None, _TEST
_THREE_SPLITS = SplitSlice("train"), SplitSlice("val"), _TEST
_NORB_SPLITS = (
    SplitSlice("train"),
    SplitSlice("test", stop=0.5),
    SplitSlice("test", start=0.5),
)


def _two_splits(share: float) -> tuple[SplitSlice, SplitSlice, SplitSlice]:
    """Take val from the end of train, of two published splits."""
    train = SplitSlice("train", stop=share)
    return train, SplitSlice("train", start=share), _TEST


def _single_split(
    train: float, val: float, end: float = 1.0
) -> tuple[SplitSlice, SplitSlice, SplitSlice]:
    """Divide a set that was published in one piece."""
    return (
        SplitSlice("", stop=train),
        SplitSlice("", start=train, stop=val),
        SplitSlice("", start=val, stop=end),
    )


_READERS: dict[str, SplitsReader] = {
    "birds": local_files.birds,
    "caltech101": local_files.caltech101,
    "camelyon": torchvision_reader("pcam", _camelyon),
    "cars": torchvision_reader("stanford_cars", _file_name),
    "cifar100": torchvision_reader("cifar100", _file_number),
    "clevr_count": dataset_reader(clevr_kitti.clevr_count, _file_name),
    "clevr_distance": clevr_kitti.clevr,
    "col_hist": class_folder_reader(
        "Kather_texture_2016_image_tiles_5000",
        "https://zenodo.org/records/53169",
        _file_name,
    ),
    "dmlab": local_files.dmlab,
    "dsprites_location": partial(norb_dsprites.dsprites, what="location"),
    "dsprites_orientation": partial(norb_dsprites.dsprites, what="orientation"),
    "dtd": torchvision_reader("dtd", _class_and_name),
    "eurosat": torchvision_reader("eurosat", _class_underscore_name),
    "flowers102": torchvision_reader("flowers102", _file_name),
    "imagenet": torchvision_reader("imagenet", _file_name),
    "kitti_distance": clevr_kitti.kitti,
    "norb_azimuth": partial(norb_dsprites.norb, what="azimuth"),
    "norb_elevation": partial(norb_dsprites.norb, what="elevation"),
    "pets": torchvision_reader("oxford_iiit_pet", _file_name),
    "resisc45": class_folder_reader(
        "resisc45/NWPU-RESISC45",
        "https://www.kaggle.com or the publisher's page of NWPU-RESISC45",
        _class_underscore_name,
    ),
    "retinopathy": local_files.retinopathy,
    "sun397": torchvision_reader("sun397", lambda id_: id_.removeprefix("SUN397")),
    "svhn": torchvision_reader("svhn", _file_number),
    "uc_merced": class_folder_reader(
        "UCMerced_LandUse/Images",
        "http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        _file_name,
    ),
}
_SLICES: dict[str, tuple[SplitSlice, SplitSlice | None, SplitSlice]] = {
    "vtab/caltech101": _two_splits(0.9),
    "vtab/cifar100": _two_splits(0.9),
    "vtab/dtd": _THREE_SPLITS,
    "vtab/flowers102": _THREE_SPLITS,
    "vtab/pets": _two_splits(0.8),
    # Leaves out the last of 108,754 images: VTAB's test has one less.
    "vtab/sun397": _single_split(0.7, 0.8, 0.999995),
    "vtab/svhn": _two_splits(0.9),
    "vtab/camelyon": _THREE_SPLITS,
    "vtab/eurosat": _single_split(0.6, 0.8),
    "vtab/resisc45": _single_split(0.6, 0.8),
    "vtab/retinopathy": _THREE_SPLITS,
    "vtab/clevr_count": _two_splits(0.9),
    "vtab/clevr_distance": _two_splits(0.9),
    "vtab/dmlab": _THREE_SPLITS,
    "vtab/dsprites_location": _single_split(0.8, 0.9),
    "vtab/dsprites_orientation": _single_split(0.8, 0.9),
    "vtab/kitti_distance": _THREE_SPLITS,
    "vtab/norb_azimuth": _NORB_SPLITS,
    "vtab/norb_elevation": _NORB_SPLITS,
    "fewshot/col_hist": (SplitSlice("", stop=2_000), None, SplitSlice("", start=2_000)),
    "fewshot/imagenet": (SplitSlice("train", stop=65_000), None, _TEST),
    "fewshot/uc_merced": (
        SplitSlice("", stop=1_000),
        None,
        SplitSlice("", start=1_000),
    ),
}
"""Slices of train, val and test of each task; another few-shot set takes all."""
TASKS: dict[str, BenchmarkTask] = {
    name: BenchmarkTask(
        _READERS[name.partition("/")[2]], *_SLICES.get(name, _TRAIN_AND_TEST)
    )
    for name in (*groups()["vtab"], *groups()["fewshot"])
}
NAMES = (*TASKS, *(f"{name}{FULL}" for name in TASKS if name.startswith("vtab/")))


def read_task(name: str, root: Path | None = None) -> Dataset:
    """Read one of NAMES with the benchmark's splits."""
    root = root or default_root()
    task = TASKS[name.removesuffix(FULL)]
    parts: dict[str, tuple[SplitSlice, ...]]
    parts = {"train": (task.train,), "test": (task.test,)}
    if task.val is not None:
        first = replace(task.train, limit=VTAB_TRAIN)
        second = replace(task.val, limit=VTAB_VAL)
        parts["train"] = (first, second) if name.endswith(FULL) else (first,)
        if not name.endswith(FULL):
            parts["val"] = (second,)
    pool = task.read(root)
    return Dataset(
        name=name,
        root=root,
        classes=pool.classes,
        examples=draw_subset(pool, parts),
        reader=pool.reader,
        notes=(FIXED_SPLITS_NOTE,),
    )
