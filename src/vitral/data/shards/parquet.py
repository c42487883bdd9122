"""Index Parquet and Arrow files of pictures and labels with pyarrow.

Columns are those of the Hugging Face hub: a picture is a struct with bytes (or bytes
alone), a label an integer, a string or a list of them. File metadata may name classes.
"""

from collections.abc import Iterator
from typing import Any

from vitral.data.shards.index import ShardIndex
from vitral.data.sources import (
    choose_label_column,
    import_pyarrow,
    read_features,
    unwrap_feature,
)


class _UnusableFile(Exception):
    """A file without usable examples; the text is the reason."""


def index_parquet(source: Any, what: str, remote: bool = False) -> ShardIndex:
    """Index a Parquet file; `first` is a row group, `second` a row of it.

    Args:
        source: a path or an open file.
        what: name of the file in errors.
        remote: raise OSError, as the network's, instead of recording it as a fault.
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
            _refuse_empty_rows(file.metadata)
            label = _find_columns(index, file.schema_arrow)
        except _UnusableFile as fault:
            index.fault = str(fault)
            return index
        row = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            index.group_bytes = max(
                index.group_bytes, _row_group_bytes(metadata, index.column)
            )
            if not label:
                _add_unlabelled(index, metadata.num_rows, group, row)
                row += metadata.num_rows
                continue
            try:
                labels = file.read_row_group(group, columns=[label]).column(label)
            except broken as error:
                index.fault = f"row group {group} cannot be read ({one_line(error)})"
            else:
                _add_rows(index, labels, group, row)
            row += metadata.num_rows
    return index


def index_arrow(path: str, what: str) -> ShardIndex:
    """Index an Arrow file; `first` is a record batch, `second` a row of it."""
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
    """Yield the memory-mapped record batches of an Arrow file or stream."""
    arrow = import_pyarrow(what)
    with arrow.memory_map(path) as mapped:
        if mapped.read(6) == b"ARROW1":
            file = arrow.ipc.open_file(mapped)
            for i in range(file.num_record_batches):
                yield file.get_batch(i)
        else:
            mapped.seek(0)
            yield from arrow.ipc.open_stream(mapped)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def _add_rows(index: ShardIndex, labels: Any, group: int, row: int) -> None:
    """Add the rows of a group that have a label."""
    missing = 0
    for i, value in enumerate(labels.to_pylist()):
        row_labels = _row_labels(value)
        if row_labels:
            index.add(f"{row + i:06d}", group, i, row_labels)
        else:
            missing += 1
    if missing:
        reason = f"{missing} row(s) without a usable label, from there on"
        index.ignored.append([f"{row:06d}", reason])


def _add_unlabelled(index: ShardIndex, count: int, group: int, row: int) -> None:
    for i in range(count):
        index.add(f"{row + i:06d}", group, i, ())


def _row_labels(value: Any) -> tuple[str, ...]:
    """Return the labels of a row as text without repeats; none if any is invalid."""
    labels = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, int | str):
            return ()
        # The hub marks a missing label by -1.
        if item == -1 or not str(item).strip() or not str(item).isprintable():
            return ()
        labels.append(str(item).strip())
    return tuple(dict.fromkeys(labels))


def _find_columns(index: ShardIndex, schema: Any) -> str:
    """Record the picture's column and the classes; return the label's column or ""."""
    arrow = import_pyarrow("A shard")
    features = {
        name: unwrap_feature(item) for name, item in read_features(schema).items()
    }
    types = {name: str(feature.get("_type")) for name, feature in features.items()}
    pictures = [name for name, feature in types.items() if feature == "Image"]
    if not pictures:
        pictures = [field.name for field in schema if _holds_bytes(arrow, field.type)]
    described = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if len(pictures) != 1:
        raise _UnusableFile(
            f"it must have one column of pictures; its columns are {described[:300]}"
        )
    label = choose_label_column(types, schema.names)
    names = features.get(label, {}).get("names")
    index.column = pictures[0]
    index.source = f"column {label}" if label else ""
    index.names = [str(name) for name in names] if isinstance(names, list) else []
    return label


def _holds_bytes(arrow: Any, column_type: Any) -> bool:
    if arrow.types.is_struct(column_type):
        return any(
            column_type.field(i).name == "bytes" for i in range(column_type.num_fields)
        )
    return bool(
        arrow.types.is_binary(column_type) or arrow.types.is_large_binary(column_type)
    )


def _refuse_empty_rows(metadata: Any) -> None:
    """Refuse a file with more rows than bytes, before anything is made of a row.

    Repeated values take no room in a Parquet file: 20 million rows fit into 131 kB.
    """
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(
        int(group.column(i).total_compressed_size)
        for group in groups
        for i in range(group.num_columns)
    )
    rows = sum(int(group.num_rows) for group in groups)
    if rows > max(size, 0):
        raise _UnusableFile(
            f"it claims {rows:,} rows in {size:,} bytes, less than a byte for a picture"
        )


def _row_group_bytes(metadata: Any, column: str) -> int:
    """Return the uncompressed size in bytes of a row group's pictures."""
    parts = [metadata.column(i) for i in range(metadata.num_columns)]
    return sum(
        int(part.total_uncompressed_size)
        for part in parts
        if part.path_in_schema.split(".")[0] == column
    )
