"""Read a metadata.parquet into dictionaries with row numbers, with pyarrow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitral.data.sources.table_rows import check_columns, rename_columns
from vitral.errors import DataError, MissingExtraError

BATCH_ROWS = 64
"""Rows decoded at a time: repeated values take no room in the file."""
MAX_TEXT = 100_000
"""Longest text of a cell, in characters."""


def import_pyarrow(what: str) -> Any:
    """Import pyarrow with its Parquet module."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs the package pyarrow, which comes with datasets: "
            "`pip install vitral[hf]`."
        ) from error
    return pyarrow


def read_features(schema: Any) -> dict[str, Any]:
    """Return the features that `datasets` wrote; empty if another program did."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def unwrap_feature(feature: Any) -> dict[str, Any]:
    """Return the feature of a column, or of the items of a list; else {}."""
    if isinstance(feature, list) and feature:
        return unwrap_feature(feature[0])
    if not isinstance(feature, dict):
        return {}
    inner = feature.get("feature")
    return feature if inner is None else unwrap_feature(inner)


def parquet_rows(
    path: Path, required: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each row from 1, and its values by column.

    A class label that `datasets` stored as a number is its name.

    Raises:
        DataError: the file cannot be read, or a required column is missing.
    """
    arrow = import_pyarrow(path.name)
    try:
        with arrow.parquet.ParquetFile(path) as file:
            _require_bytes(path, file.metadata)
            names = file.schema_arrow.names
            header = rename_columns(names)
            check_columns(path, header, required)
            classes = _class_names(file.schema_arrow)
            number = 0
            texts: dict[str, str] = {}
            for batch in file.iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    values = {
                        name: _cell(path, number, row[old], classes.get(old), texts)
                        for name, old in zip(header, names, strict=True)
                    }
                    yield number, values
    except (arrow.ArrowException, OSError) as error:
        text = " ".join(str(error).split()).rstrip(".")[:200]
        raise DataError(
            f"{path.name}: it is cut off or no Parquet file ({text}). Write it again."
        ) from error


def _cell(
    path: Path,
    number: int,
    value: Any,
    classes: list[str] | None,
    texts: dict[str, str],
) -> Any:
    """Return a value as a line of JSON would hold it; equal texts are one object."""
    if isinstance(value, list):
        return [_cell(path, number, item, classes, texts) for item in value]
    if classes is not None and isinstance(value, int):
        if value == -1:  # the hub marks a missing label so
            return None
        if not 0 <= value < len(classes):
            raise DataError(
                f"{path.name} line {number}: the label {value} is not among its "
                f"{len(classes)} classes. Correct the label."
            )
        return classes[value]
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise DataError(
                f"{path.name} line {number}: a text of {len(value):,} characters, "
                f"above {MAX_TEXT:,}. Remove the column."
            )
        return texts.setdefault(value, value)
    if value is None or isinstance(value, bool | int | float | dict):
        return value
    return str(value)


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of each column that `datasets` made a ClassLabel."""
    found = {}
    for name, feature in read_features(schema).items():
        feature = unwrap_feature(feature)
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and isinstance(names, list):
            found[name] = [str(item) for item in names]
    return found


def _require_bytes(path: Path, metadata: Any) -> None:
    """Refuse more rows than bytes: each row has a path of its own."""
    size = path.stat().st_size
    if metadata.num_rows > size:
        raise DataError(
            f"{path.name}: it claims {metadata.num_rows:,} rows in {size:,} bytes, "
            "less than a byte for a path. Write it again."
        )
