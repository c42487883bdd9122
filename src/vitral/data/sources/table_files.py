"""Find the tables of a source: a file, or the metadata table of each split folder."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.data.dataset import SPLIT_ALIASES
from vitral.data.hidden import reason_hidden
from vitral.data.sources.table_parquet import parquet_rows
from vitral.data.sources.table_rows import csv_rows, json_rows, read_text
from vitral.errors import DataError

TABLE_FILES = ("labels.csv", "labels.jsonl")
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables with a column `file_name`, of Hugging Face's ImageFolder."""


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One table, and the folder that its rows belong to."""

    file: Path
    name: str
    """For messages."""
    folder: str = ""
    """Folder of the table relative to the source's."""
    split: str = ""
    """Split of all rows; "" if the rows say it."""

    def rows(self, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row, and its values by column.

        Raises:
            DataError: it cannot be read, or a required column is missing.
        """
        if self.file.suffix == ".parquet":
            return parquet_rows(self.file, required)
        read = json_rows if self.file.suffix == ".jsonl" else csv_rows
        return read(self.file, read_text(self.file), required)

    def place(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a row whose path and split are those in the source."""
        if not self.folder:
            return values
        path = values["path"]
        if isinstance(path, str) and path.strip():
            path = posixpath.join(self.folder, path.strip())
        return {**values, "path": path, "split": values.get("split") or self.split}


def find_table(path: Path) -> Path | None:
    """Return the table that `path` is or holds; a folder if its splits hold tables.

    Raises:
        DataError: a folder holds two tables.
    """
    if path.is_file():
        if path.suffix in (".csv", ".jsonl"):
            return path
        named = path.name in METADATA_FILES and "path" in table_columns(path)
        return path if named else None
    tables = [path / name for name in TABLE_FILES if (path / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{path} holds both {' and '.join(TABLE_FILES)}. Remove one.")
    if tables:
        return tables[0]
    metadata = _metadata_file(path)
    if metadata is not None:
        return metadata
    return (
        path if any(table.split == "train" for table in _split_tables(path)) else None
    )


def table_files(path: Path) -> list[TableFile]:
    """Return the tables of what `find_table` returned."""
    if path.is_dir():
        return _split_tables(path)
    return [TableFile(file=path, name=path.name)]


def table_columns(path: Path) -> tuple[str, ...]:
    """Return the columns of a table, of .jsonl those of the first row."""
    return tuple(next(table_files(path)[0].rows(()), (0, {}))[1])


def _split_tables(path: Path) -> list[TableFile]:
    if not path.is_dir():
        return []
    tables = []
    for folder in sorted(path.iterdir()):
        split = SPLIT_ALIASES.get(folder.name.lower(), "")
        file = _metadata_file(folder) if split else None
        if file is not None:
            name = f"{folder.name}/{file.name}"
            tables.append(
                TableFile(file=file, name=name, folder=folder.name, split=split)
            )
    return tables


def _metadata_file(folder: Path) -> Path | None:
    """Return a metadata table that gives labels, or stands in for class folders.

    Raises:
        DataError: the folder holds two.
    """
    found = []
    for name in METADATA_FILES:
        file = folder / name
        if not file.is_file():
            continue
        columns = table_columns(file)
        if "path" not in columns:
            continue
        has_folders = any(
            entry.is_dir() and not reason_hidden(entry.name)
            for entry in folder.iterdir()
        )
        if "label" in columns or not has_folders:
            found.append(file)
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise DataError(f"{folder} holds both {names}. Remove one.")
    return found[0] if found else None
