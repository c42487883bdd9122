"""Table of readers and splits for VTAB's 19 tasks and the few-shot sets.

Splits are those of VTAB's code (task_adaptation) and of the few-shot settings of
big_vision and scenic. Sizes and sources are in registry.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from vitral.data.benchmarks import clevr_kitti, local_files, norb_dsprites
from vitral.data.benchmarks.local_files import SplitsReader, class_folder_reader
from vitral.data.benchmarks.registry import FULL, VTAB_TRAIN, VTAB_VAL
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


def _sun(id_: str) -> str:
    return id_.removeprefix("SUN397")


def _three_splits(read: SplitsReader) -> BenchmarkTask:
    """Use the three published splits."""
    return BenchmarkTask(
        read,
        SplitSlice(split="train"),
        SplitSlice(split="val"),
        SplitSlice(split="test"),
    )


def _two_splits(read: SplitsReader, share: float) -> BenchmarkTask:
    """Take val from the end of train, of two published splits."""
    return BenchmarkTask(
        read,
        SplitSlice(split="train", stop=share),
        SplitSlice(split="train", start=share),
        _TEST,
    )


def _single_split(
    read: SplitsReader, train: float, val: float, end: float = 1.0
) -> BenchmarkTask:
    """Divide a set that was published in one piece."""
    return BenchmarkTask(
        read,
        SplitSlice(split="", stop=train),
        SplitSlice(split="", start=train, stop=val),
        SplitSlice(split="", start=val, stop=end),
    )


def _norb_splits(read: SplitsReader) -> BenchmarkTask:
    """Take val as the first half of test, of two published splits."""
    return BenchmarkTask(
        read,
        SplitSlice(split="train"),
        SplitSlice(split="test", stop=0.5),
        SplitSlice(split="test", start=0.5),
    )


def _fewshot_splits(
    read: SplitsReader, train: SplitSlice | None = None, test: SplitSlice | None = None
) -> BenchmarkTask:
    return BenchmarkTask(read, train or SplitSlice(split="train"), None, test or _TEST)


_TEST = SplitSlice(split="test")
_RESISC = "https://www.kaggle.com or the publisher's page of NWPU-RESISC45"
_MERCED = "http://weegee.vision.ucmerced.edu/datasets/landuse.html"
_TEXTURES = "https://zenodo.org/records/53169"

TASKS: dict[str, BenchmarkTask] = {
    "vtab/caltech101": _two_splits(local_files.caltech101, 0.9),
    "vtab/cifar100": _two_splits(
        local_files.torchvision_reader("cifar100", _file_number), 0.9
    ),
    "vtab/dtd": _three_splits(local_files.torchvision_reader("dtd", _class_and_name)),
    "vtab/flowers102": _three_splits(
        local_files.torchvision_reader("flowers102", _file_name)
    ),
    "vtab/pets": _two_splits(
        local_files.torchvision_reader("oxford_iiit_pet", _file_name), 0.8
    ),
    # Leaves out the last of 108,754 images: VTAB's test has one less.
    "vtab/sun397": _single_split(
        local_files.torchvision_reader("sun397", _sun), 0.7, 0.8, 0.999995
    ),
    "vtab/svhn": _two_splits(local_files.torchvision_reader("svhn", _file_number), 0.9),
    "vtab/camelyon": _three_splits(local_files.torchvision_reader("pcam", _camelyon)),
    "vtab/eurosat": _single_split(
        local_files.torchvision_reader("eurosat", _class_underscore_name), 0.6, 0.8
    ),
    "vtab/resisc45": _single_split(
        class_folder_reader("resisc45/NWPU-RESISC45", _RESISC, _class_underscore_name),
        0.6,
        0.8,
    ),
    "vtab/retinopathy": _three_splits(local_files.retinopathy),
    "vtab/clevr_count": _two_splits(
        local_files.dataset_reader(clevr_kitti.clevr_count, _file_name), 0.9
    ),
    "vtab/clevr_distance": _two_splits(clevr_kitti.clevr, 0.9),
    "vtab/dmlab": _three_splits(local_files.dmlab),
    "vtab/dsprites_location": _single_split(
        lambda root: norb_dsprites.dsprites(root, "location"), 0.8, 0.9
    ),
    "vtab/dsprites_orientation": _single_split(
        lambda root: norb_dsprites.dsprites(root, "orientation"), 0.8, 0.9
    ),
    "vtab/kitti_distance": _three_splits(clevr_kitti.kitti),
    "vtab/norb_azimuth": _norb_splits(lambda root: norb_dsprites.norb(root, "azimuth")),
    "vtab/norb_elevation": _norb_splits(
        lambda root: norb_dsprites.norb(root, "elevation")
    ),
    "fewshot/birds": _fewshot_splits(local_files.birds),
    "fewshot/caltech101": _fewshot_splits(local_files.caltech101),
    "fewshot/cars": _fewshot_splits(
        local_files.torchvision_reader("stanford_cars", _file_name)
    ),
    "fewshot/cifar100": _fewshot_splits(
        local_files.torchvision_reader("cifar100", _file_number)
    ),
    "fewshot/col_hist": _fewshot_splits(
        class_folder_reader(
            "Kather_texture_2016_image_tiles_5000", _TEXTURES, _file_name
        ),
        SplitSlice(split="", stop=2_000),
        SplitSlice(split="", start=2_000),
    ),
    "fewshot/dtd": _fewshot_splits(
        local_files.torchvision_reader("dtd", _class_and_name)
    ),
    "fewshot/imagenet": _fewshot_splits(
        local_files.torchvision_reader("imagenet", _file_name),
        SplitSlice(split="train", stop=65_000),
    ),
    "fewshot/pets": _fewshot_splits(
        local_files.torchvision_reader("oxford_iiit_pet", _file_name)
    ),
    "fewshot/uc_merced": _fewshot_splits(
        class_folder_reader("UCMerced_LandUse/Images", _MERCED, _file_name),
        SplitSlice(split="", stop=1_000),
        SplitSlice(split="", start=1_000),
    ),
}
NAMES = (*TASKS, *(f"{name}{FULL}" for name in TASKS if name.startswith("vtab/")))


def read_task(name: str, root: Path | None = None) -> Dataset:
    """Read one of NAMES with the benchmark's splits.

    Raises:
        DataError: its files are missing, incomplete or damaged.
    """
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
