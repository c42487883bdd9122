"""A folder of images, one sub-folder per class, as a data set.

`train/`, `val/` (or `valid/`, `validation/`) and `test/` at the first level are splits;
without them split.py divides the images by hash. Nothing is decoded here.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitral.data.dataset import (
    SPLIT_NAMES,
    DataSet,
    Example,
    FileReader,
    Ignored,
    natural_key,
    shortened,
)
from vitral.data.images import EXTENSIONS
from vitral.errors import ConfigError, DataError

_SYSTEM_NAMES = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"})
_LAYOUT = (
    "Expected one folder per class, as in ROOT/cat/1.jpg, or splits above them, as in "
    "ROOT/train/cat/1.jpg"
)


@dataclass(kw_only=True)
class _Scan:
    """The walk's findings; paths are POSIX and relative to the root."""

    root: Path
    ignored: dict[str, str] = field(default_factory=dict)

    def folders(self, folder: str) -> list[str]:
        """Usable sub-folders of `folder` in natural order; the rest is recorded."""
        return [entry.name for entry in self.entries(folder) if entry.is_dir()]

    def images(
        self, folder: str, parents: tuple[tuple[int, int], ...] = ()
    ) -> Iterator[str]:
        """Image files at any depth below `folder`, in natural order."""
        status = (self.root / folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in parents:
            self.ignore(folder, "symbolic link to a folder above it")
            return
        for entry in self.entries(folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from self.images(path, (*parents, identity))
            else:
                yield path

    def entries(self, folder: str) -> Iterator["os.DirEntry[str]"]:
        """Sub-folders and image files; everything else goes to `ignored`."""
        try:
            with os.scandir(self.root / folder) as listed:
                found = sorted(listed, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            self.ignore(folder, f"folder cannot be read: {error.strerror}")
            return
        for entry in found:
            reason = _reason_to_ignore(entry)
            if reason:
                self.ignore(f"{folder}/{entry.name}" if folder else entry.name, reason)
            else:
                yield entry

    def ignore(self, path: str, reason: str) -> None:
        # Names that are not UTF-8 must still be printable and storable as JSON.
        path = path.encode("utf-8", "backslashreplace").decode()
        self.ignored[path] = reason


def read_folder(root: Path, group_by: str = "") -> DataSet:
    """List the examples of a folder; splits that the folder does not name stay "".

    Args:
        root: the folder.
        group_by: "folder" groups the images of one directory; otherwise a regular
            expression searched in the relative path, whose first group (or whole
            match) is the key; "" is no grouping.

    Raises:
        DataError: the layout is not usable; the message says why.
        ConfigError: `group_by` is not a regular expression or matches no file.
    """
    scan = _Scan(root=root)
    splits = _split_folders(scan)
    found: dict[str, dict[str, list[str]]] = {}
    notes: list[str] = []
    for folder, split in splits.items():
        for class_name in scan.folders(folder):
            path = f"{folder}/{class_name}" if folder else class_name
            images = list(scan.images(path))
            if not images:
                notes.append(f"{path}/ holds no image")
            found.setdefault(split, {}).setdefault(class_name, []).extend(images)
    _ignore_stray_images(scan, splits, found)
    classes = _class_map(root, found)
    label_of = {name: index for index, name in enumerate(classes)}
    examples = tuple(
        Example(id=path, label=(label_of[name],), split=split)
        for split, classes_found in found.items()
        for name in sorted(classes_found, key=natural_key)
        for path in classes_found[name]
    )
    return DataSet(
        name=root.resolve().name,
        root=root,
        classes=classes,
        examples=_grouped(examples, group_by),
        reader=FileReader(root=root),
        ignored=tuple(
            Ignored(path=path, reason=reason) for path, reason in scan.ignored.items()
        ),
        notes=tuple(notes),
    )


def _reason_to_ignore(entry: "os.DirEntry[str]") -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8; rename it to use it"
    if entry.name in _SYSTEM_NAMES:
        return "file of the operating system"
    if entry.name.startswith("."):
        return "hidden"
    try:
        if entry.is_dir():
            return ""
        is_file = entry.is_file()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not is_file:
        if entry.is_symlink():
            return "symbolic link that leads nowhere"
        return "not a regular file"
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return "not an image by its extension"
    return ""


def _split_folders(scan: _Scan) -> dict[str, str]:
    """Folder to split name; {"": ""} when the first level holds the classes."""
    folders = scan.folders("")
    named = {
        name: SPLIT_NAMES[name.lower()]
        for name in folders
        if name.lower() in SPLIT_NAMES
    }
    others = [name for name in folders if name not in named]
    if not named or (others and len(set(named.values())) == 1):
        # "train" beside "bus" and "car" is a vehicle.
        return {"": ""}
    for split in ("train", "val", "test"):
        same = [name for name, value in named.items() if value == split]
        if len(same) > 1:
            raise DataError(
                f"{scan.root} holds {' and '.join(f'{name}/' for name in same)}, which "
                f"both mean the {split} split. Merge them or rename one."
            )
    if "train" not in named.values():
        raise DataError(
            f"{scan.root} holds {', '.join(f'{name}/' for name in named)} but no "
            f"train/. {_LAYOUT}. Add train/ or rename the folders."
        )
    for name in others:
        scan.ignore(f"{name}/", "folder beside the split folders")
    order = ("train", "val", "test")
    return dict(sorted(named.items(), key=lambda item: order.index(item[1])))


def _ignore_stray_images(
    scan: _Scan, splits: dict[str, str], found: dict[str, dict[str, list[str]]]
) -> None:
    """Record images outside any class folder; refuse if there is nothing else."""
    folders = dict.fromkeys(("", *splits))
    for folder in folders:
        where = f"{folder}/" if folder else ""
        stray = [
            f"{where}{entry.name}"
            for entry in scan.entries(folder)
            if not entry.is_dir()
        ]
        has_classes = folder not in splits or bool(found.get(splits[folder]))
        if stray and not has_classes:
            raise DataError(
                f"{scan.root / folder} holds {len(stray)} image(s) directly, such as "
                f"{stray[0]}, and no class folder. {_LAYOUT}. Move the images into "
                "class folders, or list them in a labels.csv."
            )
        for path in stray:
            scan.ignore(path, "image outside a class folder")


def _class_map(root: Path, found: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    trained = found.get("train" if "train" in found else "", {})
    number = sum(len(paths) for split in found.values() for paths in split.values())
    if not number:
        raise DataError(f"{root} holds no image. {_LAYOUT}.")
    classes = sorted(
        (name for name, paths in trained.items() if paths), key=natural_key
    )
    for split, names in found.items():
        unknown = [
            name for name, paths in names.items() if paths and name not in classes
        ]
        if unknown:
            raise DataError(
                f"{root}: {split} has the class(es) {shortened(unknown)}, which train "
                f"lacks. Classes of train: {shortened(classes)}. Classes of {split}: "
                f"{shortened(sorted(names, key=natural_key))}. Rename the folder, or "
                "add training images."
            )
    if len(classes) < 2:
        raise DataError(
            f"{root} holds one class only, {classes[0]!r}; at least two are needed to "
            f"classify. {_LAYOUT}."
        )
    return tuple(classes)


def _grouped(examples: tuple[Example, ...], group_by: str) -> tuple[Example, ...]:
    if not group_by:
        return examples
    if group_by == "folder":
        groups = [os.path.dirname(example.id) for example in examples]
    else:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise ConfigError(
                f"group_by must be 'folder' or a regular expression: got {group_by!r} "
                f"({error})."
            ) from error
        matches = [pattern.search(example.id) for example in examples]
        if not any(matches):
            raise ConfigError(
                f"group_by {group_by!r} matches no path such as {examples[0].id!r}. "
                "Correct the expression."
            )
        groups = [
            (match.group(1 if pattern.groups else 0) or "") if match else ""
            for match in matches
        ]
    return tuple(
        replace(example, group=group)
        for example, group in zip(examples, groups, strict=True)
    )
