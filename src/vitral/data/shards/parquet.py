"""Pictures and labels of Parquet and Arrow files, by pyarrow.

The columns are those of the Hugging Face hub: a picture is a struct with its bytes (or
the bytes alone), a label a number, a word or a list of them. A file's own metadata may
name the classes. Nothing is converted: rows are read where they lie.
"""

import json
from collections.abc import Iterator
from typing import Any

from vitral.data.shards.index import ShardIndex
from vitral.errors import MissingExtraError

LABELS = ("label", "labels", "class", "fine_label")
"""Names of the label column, first come first served; a ClassLabel wins."""
_ROWS = 65_536


class _UnusableFile(Exception):
    """Why no example can be taken from a file."""


def import_pyarrow(what: str) -> Any:
    """The package, or the sentence that says how to get it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs the package pyarrow, which comes with datasets: "
            "`pip install vitral[hf]`."
        ) from error
    return pyarrow


def index_parquet(source: Any, what: str, remote: bool = False) -> ShardIndex:
    """The examples of a Parquet file; `first` is a row group, `second` a row of it.

    Args:
        source: a path or an open file.
        remote: whether an OSError is the network's, and no fault of the file.
    """
    arrow = import_pyarrow(what)
    broken = arrow.ArrowInvalid if remote else (arrow.ArrowException, OSError)
    index = ShardIndex()
    try:
        file = arrow.parquet.ParquetFile(source)
    except broken as error:
        index.fault = f"it is cut off or no Parquet file ({one_line(error)})"
        return index
    with file:
        try:
            label = _find_columns(index, file.schema_arrow)
        except _UnusableFile as fault:
            index.fault = str(fault)
            return index
        row = 0
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            index.group_bytes = max(
                index.group_bytes, _row_group_bytes(about, index.column)
            )
            if not label:
                _add_unlabelled(index, about.num_rows, group, row)
                row += about.num_rows
                continue
            try:
                labels = file.read_row_group(group, columns=[label]).column(label)
            except broken as error:
                index.fault = f"row group {group} cannot be read ({one_line(error)})"
            else:
                _add_rows(index, labels, group, row)
            row += about.num_rows
    return index


def index_arrow(path: str, what: str) -> ShardIndex:
    """The examples of an Arrow file; `first` is a record batch, `second` its row."""
    arrow = import_pyarrow(what)
    index = ShardIndex()
    row = 0
    try:
        for group, batch in enumerate(iter_record_batches(path, what)):
            if not group:
                label = _find_columns(index, batch.schema)
            if label:
                _add_rows(index, batch.column(label), group, row)
            else:
                _add_unlabelled(index, batch.num_rows, group, row)
            row += batch.num_rows
    except _UnusableFile as fault:
        index.fault = str(fault)
    except (arrow.ArrowException, OSError) as error:
        index.fault = f"it is cut off or no Arrow file ({one_line(error)})"
    if not row and not index.fault:
        index.fault = "it has no row"
    return index


def iter_record_batches(path: str, what: str) -> Iterator[Any]:
    """The record batches of an Arrow file, in either of its two forms, mapped."""
    arrow = import_pyarrow(what)
    with arrow.memory_map(path) as mapped:
        if mapped.read(6) == b"ARROW1":
            file = arrow.ipc.open_file(mapped)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)
        else:
            mapped.seek(0)
            yield from arrow.ipc.open_stream(mapped)


def image_bytes(value: Any) -> bytes:
    """The bytes of one picture; empty if the row has none of its own."""
    found = value.as_py()
    content = found.get("bytes") if isinstance(found, dict) else found
    return content or b""


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def _add_rows(index: ShardIndex, labels: Any, group: int, row: int) -> None:
    """Take the rows of a group that have a label."""
    missing = 0
    for place, value in enumerate(labels.to_pylist()):
        words = _row_labels(value)
        if words:
            index.add(f"{row + place:06d}", group, place, words)
        else:
            missing += 1
    if missing:
        reason = f"{missing} row(s) without a usable label, from there on"
        index.ignored.append([f"{row:06d}", reason])


def _add_unlabelled(index: ShardIndex, count: int, group: int, row: int) -> None:
    for place in range(count):
        index.add(f"{row + place:06d}", group, place, ())


def _row_labels(value: Any) -> tuple[str, ...]:
    """The labels of a row as text, each once; none if any is no label."""
    words = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, int | str):
            return ()
        # The hub marks a missing label by -1.
        if item == -1 or not str(item).strip() or not str(item).isprintable():
            return ()
        words.append(str(item).strip())
    return tuple(dict.fromkeys(words))


def _find_columns(index: ShardIndex, schema: Any) -> str:
    """Find the picture's column and the label's, "" without one, and the classes."""
    arrow = import_pyarrow("A shard")
    features = _read_features(schema)
    pictures = [
        name for name, kind in features.items() if _feature_type(kind) == "Image"
    ]
    if not pictures:
        pictures = [field.name for field in schema if _holds_bytes(arrow, field.type)]
    described = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if len(pictures) != 1:
        raise _UnusableFile(
            f"it must have one column of pictures; its columns are {described[:300]}"
        )
    named = [
        name for name, kind in features.items() if _feature_type(kind) == "ClassLabel"
    ]
    label = named[0] if len(named) == 1 else ""
    label = label or next(
        (name for name in LABELS if name in (named or schema.names)), ""
    )
    index.column = pictures[0]
    index.source = f"column {label}" if label else ""
    index.names = _class_names(features.get(label))
    return label


def _read_features(schema: Any) -> dict[str, Any]:
    """What `datasets` says about the columns; empty if another program wrote it."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _feature_type(feature: Any) -> str:
    """The type of a column; of a list that of its items."""
    if isinstance(feature, list) and feature:
        return _feature_type(feature[0])
    if not isinstance(feature, dict):
        return ""
    inner = feature.get("feature")
    return str(feature.get("_type", "")) if inner is None else _feature_type(inner)


def _class_names(feature: Any) -> list[str]:
    if isinstance(feature, list) and feature:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return []
    if isinstance(feature.get("feature"), list | dict):
        return _class_names(feature["feature"])
    names = feature.get("names")
    return [str(name) for name in names] if isinstance(names, list) else []


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_struct(kind):
        return any(
            kind.field(place).name == "bytes" for place in range(kind.num_fields)
        )
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _row_group_bytes(metadata: Any, column: str) -> int:
    """What the pictures of a row group take in memory."""
    parts = [metadata.column(place) for place in range(metadata.num_columns)]
    return sum(
        int(part.total_uncompressed_size)
        for part in parts
        if part.path_in_schema.split(".")[0] == column
    )
