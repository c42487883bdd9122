"""Open a data set of any source: a folder, a table, shards or a name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitral.data import split
from vitral.data.benchmarks import groups, vtab
from vitral.data.dataset import Dataset
from vitral.data.shards import find_shards, read_shards, remote
from vitral.data.sources import (
    NUMBER_COLUMNS,
    PREFIX,
    default_root,
    find_table,
    has_classes,
    has_marks,
    read_folder,
    read_hub,
    read_named,
    read_numbers,
    read_pseudo,
    read_table,
    read_unlabelled,
    table_columns,
    torchvision_datasets,
)
from vitral.errors import ConfigError, DataError
from vitral.validation import nearest_names

NAMES = (*torchvision_datasets.NAMES, *vtab.NAMES)
"""Names of all named data sets; names with a slash are tasks of a benchmark."""


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """Facts about a source that cost no listing of its examples."""

    data: str
    kind: Literal["folder", "table", "shards", "name", "images", "unknown"]
    """"images": a folder without class folders. "unknown": none of vitral's sources."""
    columns: tuple[str, ...] = ()
    """Columns of the table, or columns of numbers of a named set; empty without."""


def describe_source(data: str | Path) -> SourceFacts:
    """Return what can be said about a source without listing it."""
    path, name = Path(data), str(data)
    table = find_table(path)
    if table is not None:
        columns = table_columns(table)
        if has_marks(table):
            columns = (*columns, "label")
        return SourceFacts(data=name, kind="table", columns=columns)
    if find_shards(data) is not None:
        return SourceFacts(data=name, kind="shards")
    if path.is_dir():
        kind: Literal["folder", "images"] = "folder" if has_classes(path) else "images"
        return SourceFacts(data=name, kind=kind)
    named = name in NAMES or name.startswith((PREFIX, remote.PREFIX))
    if not named and path.suffix != ".json":
        return SourceFacts(data=name, kind="unknown")
    columns = ("label", *NUMBER_COLUMNS[name]) if name in NUMBER_COLUMNS else ()
    return SourceFacts(data=name, kind="name", columns=columns)


def open_dataset(
    data: str | Path,
    *,
    seed: int = 0,
    val: int | float = 0.1,
    test: int | float = 0.2,
    group_by: str = "",
    root: Path | None = None,
    kind: Literal["auto", "images", "clips"] = "auto",
    labels: Literal["needed", "optional"] = "needed",
    columns: tuple[str, ...] = (),
) -> Dataset:
    """List the examples of a data set and give each a split.

    Args:
        data: a folder of class folders, or with a labels.csv or labels.jsonl; a .csv
            or .jsonl file; shards (.tar, .parquet, .arrow) as a folder, a file or a
            pattern such as "shards/train-{000..009}.tar"; a name such as "digits",
            "cifar10" or "vtab/dtd"; "hf:OWNER/NAME" to download a set of the Hugging
            Face hub, "hf-stream:OWNER/NAME" to stream it. Files and folders have
            priority over names; "./name" is always a path.
        seed: seed of the split by hash, where the data set names no splits. Tasks of a
            benchmark have fixed splits and ignore seed and fractions.
        val: fraction for val. 0: none.
        test: fraction for test. 0: none.
        group_by: keeps examples of a group in one split: "folder" or a regular
            expression on the path for a folder, a column for a table. "": no groups.
        root: folder of named data sets, downloads and the indices of shards.
        kind: "auto" takes images, and clips where there is no image. "images" refuses
            these clips. "clips", for a video model, takes clips only, including folders
            of frames.
        labels: "optional" also takes a folder without class folders, or shards without
            labels; their images have the one class "images".
        columns: columns of a table that each example keeps, in this order; a column
            `label` is then not needed. (): the labels.

    Raises:
        DataError: the data set is unusable; the message says why.
        ConfigError: nothing has this name, or a setting is not allowed.
        MissingExtraError: there are video files and PyAV is not installed.
    """
    listed: Literal["auto", "clips"] = "clips" if kind == "clips" else "auto"
    if labels == "optional" and listed == "auto" and _is_unlabelled_folder(Path(data)):
        dataset = read_unlabelled(Path(data), group_by)
    else:
        dataset = _list_examples(
            data,
            group_by,
            root,
            listed,
            unlabelled=labels == "optional",
            columns=columns,
        )
    if dataset.name in vtab.NAMES:
        val = test = 0.0
    dataset = split.assign(dataset, seed=seed, val=val, test=test)
    dataset.require_kind(kind)
    return dataset


def _list_examples(
    data: str | Path,
    group_by: str,
    root: Path | None,
    kind: Literal["auto", "clips"],
    *,
    unlabelled: bool,
    columns: tuple[str, ...] = (),
) -> Dataset:
    """List the examples before `split.assign`."""
    path = Path(data)
    table = find_table(path)
    if table is not None:
        return read_table(table, group_by, kind, columns, unlabelled)
    if columns and str(data) not in NUMBER_COLUMNS:
        raise DataError(
            f"{data} has no table, and the columns {', '.join(columns)} are asked "
            "for: write them into a labels.csv with the column path in the folder."
        )
    shards = find_shards(data)
    if shards is not None:
        _refuse_clips(shards.display_name, kind)
        cache = (root or default_root()) / "shards"
        return read_shards(shards, group_by, cache, unlabelled)
    if path.is_dir():
        return read_folder(path, group_by, kind)
    if path.is_file():
        if path.suffix == ".json" and kind == "auto":
            return read_pseudo(
                path,
                lambda source, group_by: _list_examples(
                    source, group_by, root, kind, unlabelled=unlabelled
                ),
            )
        raise ConfigError(
            "data must be a folder, a .csv or .jsonl table, a .tar, .parquet or "
            f".arrow shard, or a name: got the file {path}."
        )
    name = str(data)
    if name in NAMES or name.startswith((PREFIX, remote.PREFIX)):
        if group_by:
            raise ConfigError(
                f"`group_by` works on folders and tables: got {group_by!r} for the "
                f"named data set {name}. Leave it empty."
            )
        _refuse_clips(f"The data set {name}", kind)
        if name.startswith(remote.PREFIX):
            return remote.read_streamed(name, root or default_root(), unlabelled)
        if name.startswith(PREFIX):
            return read_hub(name, root)
        if name in NUMBER_COLUMNS:
            return read_numbers(name, columns)
        read = vtab.read_task if name in vtab.NAMES else read_named
        return read(name, root)
    if name in groups():
        members = groups()[name]
        raise ConfigError(
            f"{name} stands for {len(members)} data sets: {', '.join(members)}. Give "
            "one of them."
        )
    raise ConfigError(
        f"data {name!r} is neither a folder, a table nor a known name. "
        f"Nearest names: {', '.join(_nearest_names(name))}. Correct the path or name."
    )


def _refuse_clips(name: str, kind: str) -> None:
    if kind == "clips":
        raise DataError(
            f"{name} holds images, but a video model needs clips. Give a folder or "
            "table of clips, or choose a model of images."
        )


def _is_unlabelled_folder(path: Path) -> bool:
    if not path.is_dir() or find_table(path) is not None:
        return False
    return find_shards(path) is None and not has_classes(path)


def _nearest_names(name: str) -> tuple[str, ...]:
    """Return near tasks for a name with a slash, else near sets; all if none is."""
    if "/" in name:
        close = nearest_names(name, vtab.TASKS, count=3)
        if close:
            return tuple(close)
    return torchvision_datasets.nearest_names(name)
