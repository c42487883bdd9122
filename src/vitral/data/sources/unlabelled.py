"""List a folder of unlabelled images as a data set.

For training without labels and for pseudo-labels: every image at any depth is an
example of the one class `images`.
"""

from pathlib import Path

from vitral.data.dataset import Dataset, FileReader
from vitral.data.example import Example
from vitral.data.sources.image_folder import FolderScan, assign_groups, split_folders
from vitral.errors import DataError

CLASSES = ("images",)


def read_unlabelled(root: Path, group_by: str = "") -> Dataset:
    """List every image below `root`; splits that no folder names stay "".

    Args:
        root: a folder; `train/`, `val/` and `test/` at its first level are splits.
        group_by: as in `read_folder`.

    Raises:
        DataError: `root` is no folder, or holds no image.
        ConfigError: `group_by` is not a regular expression or matches no file.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give one that holds images.")
    scan = FolderScan(root=root, kind="images")
    splits = split_folders(scan)
    examples = tuple(
        Example(id=path, label=(0,), split=splits[folder])
        for folder, path in scan.files(splits)
    )
    if not examples:
        line = scan.left_out_line()
        raise DataError(f"{root} holds no image, at any depth.{line}")
    return Dataset(
        name=root.resolve().name,
        root=root,
        classes=CLASSES,
        examples=assign_groups(examples, group_by),
        reader=FileReader(root=root),
        ignored=scan.ignored_files(),
    )


def has_classes(root: Path) -> bool:
    """Return whether `read_folder` would see two or more class folders."""
    scan = FolderScan(root=root, kind="images")
    first = next(iter(split_folders(scan)))
    return len(scan.folders(first)) > 1
