"""List a folder of images or clips, one sub-folder per class, as a data set.

`train/`, `val/` (or `valid/`, `validation/`) and `test/` at the first level are splits;
without them split.py divides the images by hash. A clip is a video file, an .npz or a
folder of frames.
"""

import os
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from vitral.data.dataset import (
    SPLIT_ALIASES,
    SPLITS,
    ClipReader,
    Dataset,
    FileReader,
    IgnoredFile,
    shorten_names,
)
from vitral.data.example import Example
from vitral.data.images import IMAGE_EXTENSIONS
from vitral.data.names import canonical_class, canonical_name
from vitral.data.order import natural_key
from vitral.data.video import CLIP_EXTENSIONS, VIDEO_EXTENSIONS, require_av
from vitral.data.walk import FolderWalk, left_out_line, reason_group
from vitral.errors import ConfigError, DataError

_LAYOUT = (
    "Expected one folder per class, as in ROOT/cat/1.jpg, or splits above them, as in "
    "ROOT/train/cat/1.jpg"
)


@dataclass(kw_only=True)
class FolderScan(FolderWalk):
    """Walk over a folder of class folders, with what was ignored and why."""

    ignored: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    """Ignored clips where `kind` is images, and the reverse."""
    by_split: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Paths by split and class."""
    notes: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        return self.kind[:-1]

    def paths(self) -> list[str]:
        classes = [
            paths for split in self.by_split.values() for paths in split.values()
        ]
        return [path for paths in classes for path in paths]

    def ignored_files(self) -> tuple[IgnoredFile, ...]:
        return tuple(
            IgnoredFile(path=path, reason=reason)
            for path, reason in self.ignored.items()
        )

    def folders(self, folder: str) -> list[str]:
        """Return the usable sub-folders in natural order; record the others."""
        return [entry.name for entry in self.entries(folder) if entry.is_dir()]

    def ignore(self, path: str, reason: str) -> None:
        # Names that are not UTF-8 must still be printable and storable as JSON.
        path = path.encode("utf-8", "backslashreplace").decode()
        if path in self.ignored:
            return
        self.ignored[path] = reason
        others = IMAGE_EXTENSIONS if self.kind == "clips" else CLIP_EXTENSIONS
        by_extension = reason.endswith("by its extension")
        if by_extension and os.path.splitext(path)[1].lower() in others:
            self.others.append(path)
        super().ignore(path, reason)

    def left_out_line(self) -> str:
        """Return the line on what is left out so far, with its end; "" if nothing."""
        line = left_out_line(self.left_out, len(self.paths()))
        return f" {line[0].upper()}{line[1:]}." if line else ""


def read_folder(
    root: Path, group_by: str = "", kind: Literal["auto", "clips"] = "auto"
) -> Dataset:
    """List the examples of a folder; splits that the folder does not name stay "".

    Args:
        root: the folder.
        group_by: "folder" groups the images of one directory. Otherwise a regular
            expression searched in the relative path: its first group (or whole match)
            is the key. "": no grouping.
        kind: "auto" takes images, and clips where there is no image; "clips" takes
            clips, including folders of frames.

    Raises:
        DataError: the layout is not usable; the message says why.
        ConfigError: `group_by` is not a regular expression or matches no file.
        MissingExtraError: there are video files and PyAV is not installed.
    """
    scan = FolderScan(root=root, kind="images" if kind == "auto" else "clips")
    splits = _list_folder(scan)
    if kind == "auto" and scan.others and not scan.paths():
        scan = FolderScan(root=root, kind="clips")
        splits = _list_folder(scan)
    _ignore_stray_images(scan, splits)
    classes = _class_map(scan)
    if scan.kind == "images" and scan.others:
        scan.notes.append(
            f"{len(scan.others)} clip(s), such as {scan.others[0]}, are ignored beside "
            "the images: a video model takes them"
        )
    if any(Path(path).suffix.lower() in VIDEO_EXTENSIONS for path in scan.paths()):
        require_av()
    class_index = {name: index for index, name in enumerate(classes)}
    examples = tuple(
        Example(id=path, label=(class_index[name],), split=split)
        for split, by_class in scan.by_split.items()
        for name in sorted(by_class, key=natural_key)
        for path in by_class[name]
    )
    return Dataset(
        name=root.resolve().name,
        root=root,
        classes=classes,
        examples=assign_groups(examples, group_by),
        reader=(FileReader if scan.kind == "images" else ClipReader)(root=root),
        kind=scan.kind,
        ignored=scan.ignored_files(),
        notes=tuple(scan.notes),
    )


def _list_folder(scan: FolderScan) -> dict[str, str]:
    """List the paths by split and class; return the split names by folder."""
    splits = split_folders(scan)
    owners = {
        (f"{folder}/{name}" if folder else name): (split, canonical_class(name))
        for folder, split in splits.items()
        for name in scan.folders(folder)
    }
    listed: dict[str, list[str]] = {path: [] for path in owners}
    for path, example in scan.files(owners):
        listed[path].append(example)
    for path, (split, name) in owners.items():
        if not listed[path]:
            scan.notes.append(f"{path}/ holds no {scan.noun}{_reasons(scan, path)}")
        by_class = scan.by_split.setdefault(split, {})
        by_class.setdefault(name, []).extend(listed[path])
    for split in splits.values():
        scan.by_split.setdefault(split, {})
    _note_unicode_forms(scan, owners)
    return splits


def _note_unicode_forms(scan: FolderScan, owners: dict[str, tuple[str, str]]) -> None:
    """Say which class folders are one class, and which names are read as NFC."""
    folders: dict[tuple[str, str], list[str]] = {}
    for path, owner in owners.items():
        folders.setdefault(owner, []).append(path)
    for (_, name), paths in folders.items():
        if len(paths) > 1:
            scan.notes.append(
                f"{len(paths)} folders are one class, {name}: their names differ in "
                "Unicode form only"
            )
    written = {path: posixpath.basename(path) for path in owners}
    blank = [path for path, name in written.items() if name != name.strip()]
    if blank:
        scan.notes.append(
            f"{len(blank)} class folder(s) have blanks around their name, such as "
            f"{blank[0]!r}: their class is the name without them"
        )
    other = [path for path, name in written.items() if name != canonical_name(name)]
    if other:
        scan.notes.append(
            f"{len(other)} class folder(s) have a name in another Unicode form than "
            f"NFC, such as {other[0]}/: their class is its NFC form"
        )


def _reasons(scan: FolderScan, folder: str) -> str:
    """Return why the files of a class folder are no example; "" if it is empty."""
    groups = Counter(
        reason_group(path, reason)
        for path, reason in scan.ignored.items()
        if path == folder or path.startswith(f"{folder}/")
    )
    listed = "; ".join(f"{count} {reason}" for reason, count in groups.most_common(5))
    return f" ({listed})" if listed else ""


def split_folders(scan: FolderScan) -> dict[str, str]:
    """Return split names by folder; {"": ""} if the first level holds the classes."""
    folders = scan.folders("")
    named = {
        name: SPLIT_ALIASES[name.lower()]
        for name in folders
        if name.lower() in SPLIT_ALIASES
    }
    rest = [name for name in folders if name not in named]
    if not named or (rest and len(set(named.values())) == 1):
        # "train" next to "bus" and "car" is a vehicle.
        return {"": ""}
    for split in SPLITS:
        aliases = [f"{name}/" for name, value in named.items() if value == split]
        if len(aliases) > 1:
            raise DataError(
                f"{scan.root} holds {' and '.join(aliases)}, which both mean the "
                f"{split} split. Merge them or rename one."
            )
    if "train" not in named.values():
        raise DataError(
            f"{scan.root} holds {', '.join(f'{name}/' for name in named)} but no "
            f"train/. {_LAYOUT}. Add train/ or rename the folders."
        )
    for name in rest:
        scan.ignore(f"{name}/", "folder beside the split folders")
    return dict(sorted(named.items(), key=lambda item: SPLITS.index(item[1])))


def _ignore_stray_images(scan: FolderScan, splits: dict[str, str]) -> None:
    """Record images outside any class folder; raise DataError if there is no other."""
    folders = dict.fromkeys(("", *splits))
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        stray = [
            f"{prefix}{entry.name}"
            for entry in scan.entries(folder)
            if not entry.is_dir()
        ]
        has_classes = folder not in splits or bool(scan.by_split.get(splits[folder]))
        if stray and not has_classes:
            raise DataError(
                f"{scan.root / folder} holds {len(stray)} {scan.noun}(s) directly, "
                f"such as {stray[0]}, and no class folder. {_LAYOUT}. Move the "
                f"{scan.kind} into class folders, or list them in a labels.csv."
            )
        for path in stray:
            scan.ignore(path, f"{scan.noun} outside a class folder")


def _class_map(scan: FolderScan) -> tuple[str, ...]:
    root, by_split = scan.root, scan.by_split
    train = by_split.get("train" if "train" in by_split else "", {})
    if not scan.paths():
        if scan.kind == "clips" and scan.others:
            raise DataError(
                f"{root} holds images, such as {scan.others[0]}, but a video model "
                "needs clips: video files, .npz files, or a folder of frames for each "
                "clip, as in ROOT/cat/clip1/0001.jpg. Choose a model of images, or "
                "give clips."
            )
        raise DataError(
            f"{root} holds no {scan.noun}. {_LAYOUT}.{scan.left_out_line()}"
        )
    classes = sorted((name for name, paths in train.items() if paths), key=natural_key)
    for split, names in by_split.items():
        unknown = [
            name for name, paths in names.items() if paths and name not in classes
        ]
        if unknown:
            raise DataError(
                f"{root}: {split} has the class(es) {shorten_names(unknown)}, which "
                f"train lacks. Classes of train: {shorten_names(classes)}. Classes of "
                f"{split}: {shorten_names(sorted(names, key=natural_key))}. Rename the "
                f"folder, or add training {scan.kind}."
            )
    if len(classes) < 2:
        raise DataError(
            f"{root} holds one class only, {classes[0]!r}; at least two are needed to "
            f"classify. {_LAYOUT}.{scan.left_out_line()}"
        )
    return tuple(classes)


def assign_groups(examples: tuple[Example, ...], group_by: str) -> tuple[Example, ...]:
    """Return the examples with groups by their ids; `group_by` as in `read_folder`."""
    if not group_by:
        return examples
    if group_by == "folder":
        groups = [os.path.dirname(example.id) for example in examples]
    else:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise ConfigError(
                f"`group_by` must be 'folder' or a regular expression: got "
                f"{group_by!r} ({error})."
            ) from error
        matches = [pattern.search(example.id) for example in examples]
        if not any(matches):
            raise ConfigError(
                f"`group_by` {group_by!r} matches no path such as {examples[0].id!r}. "
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
