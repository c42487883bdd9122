"""VTAB's 19 tasks and the few-shot sets: what each is read from and how it is divided.

A row per name; the divisions are those of VTAB's code (task_adaptation) and of the
few-shot settings of big_vision and scenic. Sizes and sources: benchmarks.py.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vitral.data.benchmarks import clevr_kitti, local_files, norb_dsprites
from vitral.data.benchmarks.local_files import Reading, class_folders
from vitral.data.benchmarks.registry import FULL, VTAB_TRAIN, VTAB_VAL
from vitral.data.benchmarks.subsets import Part, draw
from vitral.data.dataset import DataSet
from vitral.data.sources import default_root

FIXED = "train, val and test are the benchmark's; a seed or share does not move them"


class Task(NamedTuple):
    """How a name becomes a data set."""

    read: Reading
    train: Part
    val: Part | None
    test: Part


def _base(id_: str) -> str:
    return id_.rpartition("/")[2]


def _class_and_name(id_: str) -> str:
    return "/".join(id_.split("/")[-2:])


def _joined(id_: str) -> str:
    return "_".join(id_.split("/")[-2:])


def _number(id_: str) -> str:
    return str(int(_base(id_)))


def _camelyon(id_: str) -> str:
    split = id_.split("/")[1]
    return f"{'valid' if split == 'val' else split}_{_number(id_)}"


def _sun(id_: str) -> str:
    return id_.removeprefix("SUN397")


def _thirds(read: Reading) -> Task:
    """Published in three."""
    return Task(read, Part(of="train"), Part(of="val"), Part(of="test"))


def _halves(read: Reading, share: float) -> Task:
    """Published in two; val is the last part of train."""
    return Task(
        read, Part(of="train", stop=share), Part(of="train", start=share), _TEST
    )


def _whole(read: Reading, train: float, val: float, end: float = 1.0) -> Task:
    """Published in one piece."""
    return Task(
        read,
        Part(of="", stop=train),
        Part(of="", start=train, stop=val),
        Part(of="", start=val, stop=end),
    )


def _norb(read: Reading) -> Task:
    """Published in two; val is the first half of test."""
    return Task(
        read,
        Part(of="train"),
        Part(of="test", stop=0.5),
        Part(of="test", start=0.5),
    )


def _shots(read: Reading, train: Part | None = None, test: Part | None = None) -> Task:
    return Task(read, train or Part(of="train"), None, test or _TEST)


_TEST = Part(of="test")
_RESISC = "https://www.kaggle.com or the publisher's page of NWPU-RESISC45"
_MERCED = "http://weegee.vision.ucmerced.edu/datasets/landuse.html"
_TEXTURES = "https://zenodo.org/records/53169"

TASKS: dict[str, Task] = {
    "vtab/caltech101": _halves(local_files.caltech101, 0.9),
    "vtab/cifar100": _halves(local_files.named("cifar100", _number), 0.9),
    "vtab/dtd": _thirds(local_files.named("dtd", _class_and_name)),
    "vtab/flowers102": _thirds(local_files.named("flowers102", _base)),
    "vtab/pets": _halves(local_files.named("oxford_iiit_pet", _base), 0.8),
    # The end leaves out the last of 108,754 images: VTAB has one less to test on.
    "vtab/sun397": _whole(local_files.named("sun397", _sun), 0.7, 0.8, 0.999995),
    "vtab/svhn": _halves(local_files.named("svhn", _number), 0.9),
    "vtab/camelyon": _thirds(local_files.named("pcam", _camelyon)),
    "vtab/eurosat": _whole(local_files.named("eurosat", _joined), 0.6, 0.8),
    "vtab/resisc45": _whole(
        class_folders("resisc45/NWPU-RESISC45", _RESISC, _joined), 0.6, 0.8
    ),
    "vtab/retinopathy": _thirds(local_files.retinopathy),
    "vtab/clevr_count": _halves(
        local_files.changed(clevr_kitti.clevr_count, _base), 0.9
    ),
    "vtab/clevr_distance": _halves(clevr_kitti.clevr, 0.9),
    "vtab/dmlab": _thirds(local_files.dmlab),
    "vtab/dsprites_location": _whole(
        lambda root: norb_dsprites.dsprites(root, "location"), 0.8, 0.9
    ),
    "vtab/dsprites_orientation": _whole(
        lambda root: norb_dsprites.dsprites(root, "orientation"), 0.8, 0.9
    ),
    "vtab/kitti_distance": _thirds(clevr_kitti.kitti),
    "vtab/norb_azimuth": _norb(lambda root: norb_dsprites.norb(root, "azimuth")),
    "vtab/norb_elevation": _norb(lambda root: norb_dsprites.norb(root, "elevation")),
    "fewshot/birds": _shots(local_files.birds),
    "fewshot/caltech101": _shots(local_files.caltech101),
    "fewshot/cars": _shots(local_files.named("stanford_cars", _base)),
    "fewshot/cifar100": _shots(local_files.named("cifar100", _number)),
    "fewshot/col_hist": _shots(
        class_folders("Kather_texture_2016_image_tiles_5000", _TEXTURES, _base),
        Part(of="", stop=2_000),
        Part(of="", start=2_000),
    ),
    "fewshot/dtd": _shots(local_files.named("dtd", _class_and_name)),
    "fewshot/imagenet": _shots(
        local_files.named("imagenet", _base), Part(of="train", stop=65_000)
    ),
    "fewshot/pets": _shots(local_files.named("oxford_iiit_pet", _base)),
    "fewshot/uc_merced": _shots(
        class_folders("UCMerced_LandUse/Images", _MERCED, _base),
        Part(of="", stop=1_000),
        Part(of="", start=1_000),
    ),
}
NAMES = (*TASKS, *(f"{name}{FULL}" for name in TASKS if name.startswith("vtab/")))


def read_task(name: str, root: Path | None = None) -> DataSet:
    """The data set of one of NAMES, divided as the benchmark divides it.

    Raises:
        DataError: its files are missing, incomplete or damaged.
    """
    root = root or default_root()
    task = TASKS[name.removesuffix(FULL)]
    parts: dict[str, tuple[Part, ...]]
    parts = {"train": (task.train,), "test": (task.test,)}
    if task.val is not None:
        first = replace(task.train, most=VTAB_TRAIN)
        second = replace(task.val, most=VTAB_VAL)
        parts["train"] = (first, second) if name.endswith(FULL) else (first,)
        if not name.endswith(FULL):
            parts["val"] = (second,)
    pool = task.read(root)
    return DataSet(
        name=name,
        root=root,
        classes=pool.classes,
        examples=draw(pool, parts),
        reader=pool.reader,
        notes=(FIXED,),
    )
