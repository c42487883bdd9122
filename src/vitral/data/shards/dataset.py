"""Build a data set from shards: tar files packed as by WebDataset, Parquet or Arrow.

paths.py finds the shards; webdataset.py and parquet.py index each of them. An
example's id is SHARD/KEY.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vitral.data.dataset import Dataset, IgnoredFile, shorten_names
from vitral.data.example import Example
from vitral.data.names import canonical_class
from vitral.data.order import natural_key
from vitral.data.shards.index import ShardIndex, file_stamp, load_or_build_index
from vitral.data.shards.parquet import index_arrow, index_parquet
from vitral.data.shards.paths import ShardSet, infer_split
from vitral.data.shards.readers import (
    ArrowReader,
    LocalFiles,
    LruCache,
    ParquetReader,
    Shard,
    ShardFiles,
    TarReader,
)
from vitral.data.shards.shuffle import CHUNKS, ShardOrder
from vitral.data.shards.webdataset import index_tar
from vitral.data.sources import CLASSES as UNLABELLED
from vitral.data.sources import LABELS, assign_groups
from vitral.errors import DataError

WINDOW_BYTES = 1 << 28
"""Approximate bound in bytes on the row groups that are mixed with each other."""
_SORTED_SHARE = 0.5
"""Fraction of one-class chunks above which shards count as sorted by class."""


@dataclass(frozen=True, kw_only=True)
class IndexedShard:
    """A shard, its split and its index."""

    shard: Shard
    split: str
    index: ShardIndex


def read_shards(
    shard_set: ShardSet, group_by: str, cache: Path, unlabelled: bool = False
) -> Dataset:
    """List the examples of local shards; a split that no name gives stays "".

    Args:
        group_by: as for a folder, matched against the id.
        cache: folder where vitral stores the indices.
        unlabelled: accept shards without labels; their one class is "images".

    Raises:
        DataError: no shard can be used, or the shards do not fit together.
        ConfigError: `group_by` is no expression or matches nothing.
        MissingExtraError: Parquet or Arrow without pyarrow.
    """
    parts = []
    for path in shard_set.paths:
        file = shard_set.root / path
        build: Callable[[], ShardIndex] = {
            ".tar": partial(index_tar, file),
            ".parquet": partial(index_parquet, str(file), path),
            ".arrow": partial(index_arrow, str(file), path),
        }[shard_set.suffix]
        try:
            if not file.is_file():
                raise OSError("not a regular file")
            stamp = file_stamp(file)
            index = load_or_build_index(str(file.resolve()), stamp, cache, build)
            shard = Shard(path, *stamp[:2])
        except OSError as error:
            index = ShardIndex(fault=f"it cannot be read ({error.strerror or error})")
            shard = Shard(path, 0, 0)
        parts.append(IndexedShard(shard=shard, split=infer_split(path), index=index))
    files = LocalFiles(shard_set.root)
    return build_dataset(
        shard_set, parts, group_by=group_by, files=files, unlabelled=unlabelled
    )


def build_dataset(
    shard_set: ShardSet,
    parts: list[IndexedShard],
    *,
    group_by: str,
    files: ShardFiles,
    unlabelled: bool,
) -> Dataset:
    """Build a data set from the indices of its shards."""
    if any(part.index.source for part in parts):
        parts = [_drop_lost_labels(part) for part in parts]
    used = [part for part in parts if part.index.keys]
    if not used or not (unlabelled or any(part.index.source for part in used)):
        raise DataError(_no_images_message(shard_set, parts))
    _refuse_mixture(shard_set, used)
    notes = [*_fault_notes(parts)]
    if used[0].split and all(part.split != "train" for part in used):
        # Such as val-*.tar alone, for an evaluation.
        notes.append("no shard is called train, so the names of shards give no split")
        used = [replace(part, split="") for part in used]
    classes, rows = _resolve_classes(shard_set, used, unlabelled)
    examples: list[Example] = []
    for shard_index, part in enumerate(used):
        index, labels, path = part.index, rows[shard_index], part.shard.path
        examples += [
            Example(
                id=f"{path}/{key}",
                label=labels[code],
                split=part.split,
                location=(shard_index, first, second),
            )
            for key, first, second, code in zip(
                index.keys, index.first, index.second, index.codes, strict=True
            )
        ]
    largest = max(part.index.group_bytes for part in used)
    chunks = CHUNKS if not largest else max(1, min(CHUNKS, WINDOW_BYTES // largest))
    order = ShardOrder(by_row_group=bool(largest), chunks=chunks)
    shards = tuple(part.shard for part in used)
    column = used[0].index.column
    reader: TarReader | ParquetReader | ArrowReader
    if shard_set.suffix == ".tar":
        reader = TarReader(root=shard_set.root, shards=shards)
    elif shard_set.suffix == ".arrow":
        reader = ArrowReader(root=shard_set.root, shards=shards, column=column)
    else:
        reader = ParquetReader(
            files=files, shards=shards, column=column, groups=LruCache(chunks)
        )
    return Dataset(
        name=shard_set.name,
        root=shard_set.root,
        classes=classes,
        examples=assign_groups(tuple(examples), group_by),
        reader=reader,
        order=order,
        ignored=tuple(_list_ignored(parts)),
        notes=(*notes, *_sorting_notes(used, order)),
    )


def _drop_lost_labels(part: IndexedShard) -> IndexedShard:
    """Empty the index of a shard that was cut before its first label."""
    index = part.index
    if index.source or not index.fault:
        return part
    return replace(part, index=ShardIndex(fault=index.fault, ignored=index.ignored))


def _no_images_message(shard_set: ShardSet, parts: list[IndexedShard]) -> str:
    reasons = [f"{part.shard.path}: {part.index.fault}" for part in parts]
    reasons = [text for text in reasons if not text.endswith(": ")]
    reasons += [
        f"{part.shard.path} has {len(part.index.keys)} picture(s) and no label"
        for part in parts
        if part.index.keys
    ]
    for part in parts:
        reasons += [
            f"{part.shard.path}/{name}: {why}" for name, why in part.index.ignored
        ]
    listed = "; ".join(reasons[:3]) or "there is nothing in them"
    return (
        f"{shard_set.display_name} holds no image with a label in {len(parts)} "
        f"shard(s). {listed}. Expected in a tar file members such as 000123.jpg and "
        "000123.cls, in Parquet and Arrow a column of pictures and one of labels, "
        f"called {' or '.join(LABELS)}."
    )


def _refuse_mixture(shard_set: ShardSet, parts: list[IndexedShard]) -> None:
    """Raise DataError unless labels have one source and all or no shards a split."""
    first = parts[0]
    for part in parts[1:]:
        for attribute, value, first_value in (
            ("labels from", part.index.source, first.index.source),
            ("pictures in the column", part.index.column, first.index.column),
            ("the classes", part.index.names, first.index.names),
        ):
            if value != first_value:
                raise DataError(
                    f"{shard_set.display_name} mixes two kinds of shards: "
                    f"{first.shard.path} has {attribute} {first_value}, "
                    f"{part.shard.path} {value}. Give them one by one, by a pattern, "
                    "or write them alike."
                )
    without = [part.shard.path for part in parts if not part.split]
    named = [part.shard.path for part in parts if part.split]
    if without and named:
        raise DataError(
            f"{shard_set.display_name}: {named[0]} names a split, {without[0]} does "
            "not. Name all shards train-*, val-* or test-*, or none, or choose some by "
            "a pattern."
        )


def _resolve_classes(
    shard_set: ShardSet, parts: list[IndexedShard], unlabelled: bool
) -> tuple[tuple[str, ...], list[list[tuple[int, ...]]]]:
    """Return class names, and class indices per vocabulary."""
    if unlabelled and not parts[0].index.source:
        return UNLABELLED, [[(0,)]] * len(parts)
    given = parts[0].index.names or _read_class_names(shard_set.root)
    names = [canonical_class(name) for name in given]
    train_labels = {
        label
        for part in parts
        if part.split in ("", "train")
        for labels in part.index.vocabulary
        for label in labels
    }
    by_digits = {str(index): index for index in range(len(names))}
    if not names:
        names = sorted(train_labels, key=natural_key)
    by_name = {name: index for index, name in enumerate(names)}
    class_index = by_digits if train_labels <= set(by_digits) else by_name
    rows: list[list[tuple[int, ...]]] = []
    for part in parts:
        for labels in part.index.vocabulary:
            unknown = [label for label in labels if label not in class_index]
            if unknown:
                raise DataError(
                    f"{part.shard.path}: the label {unknown[0]!r} is no class; "
                    f"{'train has' if part.split else 'there are'} "
                    f"{shorten_names(names)}. Correct the label, the list of "
                    "classes, or add training images."
                )
        rows.append(
            [
                tuple(sorted({class_index[label] for label in labels}))
                for labels in part.index.vocabulary
            ]
        )
    if len(names) < 2 and not unlabelled:
        raise DataError(
            f"{shard_set.display_name} names one class only, "
            f"{shorten_names(names)!r}; at least two are needed to classify."
        )
    return tuple(names), rows


def _read_class_names(root: Path) -> list[str]:
    """Read class names from a file in the folder of the shards; empty without one."""
    for name in ("classes.txt", "labels.txt", "dataset_info.json"):
        file = root / name
        if not file.is_file():
            continue
        try:
            text = file.read_text("utf-8")
            if name.endswith(".txt"):
                return [line.strip() for line in text.splitlines() if line.strip()]
            features = json.loads(text).get("features") or {}
            columns = [value for value in features.values() if isinstance(value, dict)]
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"{file} cannot be read ({error}). Write one class name a line into a "
                "classes.txt instead."
            ) from error
        for column in columns:
            if isinstance(column.get("names"), list):
                return [str(class_name) for class_name in column["names"]]
    return []


def _list_ignored(parts: list[IndexedShard]) -> list[IgnoredFile]:
    listed = []
    for part in parts:
        path, index = part.shard.path, part.index
        if index.fault:
            listed.append(IgnoredFile(path=path, reason=index.fault))
        listed += [
            IgnoredFile(path=f"{path}/{name}", reason=reason)
            for name, reason in index.ignored
        ]
    return listed


def _fault_notes(parts: list[IndexedShard]) -> list[str]:
    """Describe each shard that could not be read to its end."""
    return [
        f"shard {part.shard.path}: {part.index.fault}; "
        + (
            f"{len(part.index.keys)} image(s) are used"
            if part.index.keys
            else "left out"
        )
        for part in parts
        if part.index.fault
    ]


def _sorting_notes(parts: list[IndexedShard], order: ShardOrder) -> list[str]:
    """Warn where most chunks have one class: the order mixes few chunks at a time."""
    one_class = chunks = 0
    for part in parts:
        codes = part.index.codes
        for start in range(0, len(codes), 64):
            chunk = codes[start : start + 64]
            if len(chunk) > 1:
                chunks += 1
                one_class += len(set(chunk)) == 1
    if chunks <= order.chunks or one_class <= _SORTED_SHARE * chunks:
        return []
    return [
        "shards are sorted by class: an epoch mixes only "
        f"{order.chunks} chunks at a time; shuffle the examples before packing them"
    ]
