"""Compare two runs, or two tables of predictions, on their common images.

Images are matched by their path in the table; pixels are not read.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitral.data.split import held_out
from vitral.errors import ConfigError, DataError
from vitral.evaluation import Comparison, compare
from vitral.tasks.classification import Prediction, read_predictions

MIN_COMMON_IMAGES = 30
"""Common images needed of tables that differ; fewer would be a chance selection."""


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """A comparison with its two tables."""

    a: Path
    b: Path
    """The two tables."""
    split: str
    """Split of the run folders; empty for two tables given as files."""
    only_in_a: int
    """Images that only A's table lists; they are left out."""
    only_in_b: int
    both_runs: bool
    """True for two run folders, which a report can show side by side."""
    result: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: the result and its tables."""
        return {
            **self.result.to_dict(),
            "tables": [str(self.a), str(self.b)],
            "split": self.split,
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
        }

    def notes(self) -> list[str]:
        """Return sentences on the limits of the comparison."""
        notes = []
        if self.only_in_a or self.only_in_b:
            notes.append(
                f"The tables do not list the same images: {self.result.n} are common "
                f"and compared, {self.only_in_a} only in {self.result.a} and "
                f"{self.only_in_b} only in {self.result.b} are left out."
            )
        if self.split == "val":
            notes.append(
                "val may have chosen the model of each run, so both numbers are a "
                "little too good; test is what to quote."
            )
        return notes


def compare_runs(a: str | Path, b: str | Path, *, split: str = "") -> RunComparison:
    """Compare two run folders, two tables of predictions, or one of each.

    Args:
        a, b: a run folder, whose predictions/<split>.csv is read, or such a file.
        split: split of the run folders; empty for test, else val.

    Raises:
        ConfigError: a table is missing or cannot be read, or both are the same file.
        DataError: an image is listed twice, the labels of an image differ, or tables
            of different images have fewer than 30 in common.
    """
    path_a, path_b = Path(a), Path(b)
    split = _resolve_split(path_a, path_b, split)
    table_a, table_b = _resolve_table(path_a, split), _resolve_table(path_b, split)
    if table_a.resolve() == table_b.resolve():
        raise ConfigError(
            f"Both are {table_a}: give two different runs, or two different tables."
        )
    rows_a, rows_b = _read_rows(table_a), _read_rows(table_b)
    common = [path for path in rows_a if path in rows_b]
    if len(rows_a) > len(common) or len(rows_b) > len(common):
        _check_common(path_a, path_b, len(common), sizes=(len(rows_a), len(rows_b)))
    pairs = [(rows_a[path], rows_b[path]) for path in common]
    _check_labels(path_a, path_b, pairs)
    names = sorted({row.label for row, _ in pairs})
    names += sorted({row.predicted for pair in pairs for row in pair} - {*names, ""})
    index = {name: i for i, name in enumerate(names)} | {"": -1}
    result = compare(
        np.array([index[row.predicted] for row, _ in pairs]),
        np.array([index[row.predicted] for _, row in pairs]),
        np.array([index[row.label] for row, _ in pairs]),
        names,
        names=(str(path_a), str(path_b)),
    )
    return RunComparison(
        a=table_a,
        b=table_b,
        split=split,
        only_in_a=len(rows_a) - len(common),
        only_in_b=len(rows_b) - len(common),
        both_runs=not (_is_table(path_a) or _is_table(path_b)),
        result=result,
    )


def _is_table(path: Path) -> bool:
    return path.suffix == ".csv" and not path.is_dir()


def _resolve_split(a: Path, b: Path, split: str) -> str:
    """Return the split to read from run folders; empty for two tables."""
    runs = [path for path in (a, b) if not _is_table(path)]
    if not runs:
        if split:
            raise ConfigError(
                f"`split={split}` chooses a table of a run folder, and both {a} and "
                f"{b} are tables already. Leave it out."
            )
        return ""
    if split:
        return split
    tables = [
        {file.stem for file in path.glob("predictions/*.csv") if file.is_file()}
        for path in runs
    ]
    return held_out(set.intersection(*tables)) or "test"


def _resolve_table(path: Path, split: str) -> Path:
    if _is_table(path):
        if not path.is_file():
            raise ConfigError(
                f"{path} does not exist. Give a run folder, or the .csv of one's "
                "predictions."
            )
        return path
    folder = path / "predictions"
    file = folder / f"{split}.csv"
    if file.is_file():
        return file
    if not path.is_dir():
        raise ConfigError(
            f"{path} is neither a run folder nor a .csv of predictions. Give what "
            "`vitral train --out` made, or a table that `vitral eval` wrote."
        )
    if (folder / f"{split}.json").is_file():
        raise ConfigError(
            f"{path} was measured with several labels an image, for which there is no "
            "table of single answers: it cannot be compared image by image."
        )
    splits = sorted(table.stem for table in folder.glob("*.csv"))
    hint = (
        f"It has {', '.join(splits)}: choose with `split`."
        if splits
        else f"Measure it with `vitral eval {path}`."
    )
    raise ConfigError(f"{path} has no predictions/{split}.csv. {hint}")


def _read_rows(file: Path) -> dict[str, Prediction]:
    """Read the rows of a table by path."""
    try:
        rows = read_predictions(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} is not a readable table: {error}.") from error
    if not rows:
        raise DataError(f"{file} lists no image: there is nothing to compare.")
    by_path: dict[str, Prediction] = {}
    for row in rows:
        if row.path in by_path:
            raise DataError(
                f"{file}: the image {row.path} comes twice, so it cannot be matched. "
                "Keep one row an image."
            )
        if not row.label:
            raise DataError(
                f"{file}: the image {row.path} has no label, so no answer is right or "
                "wrong. Write the file again with `vitral eval`."
            )
        by_path[row.path] = row
    return by_path


def _check_common(a: Path, b: Path, common: int, *, sizes: tuple[int, int]) -> None:
    if common < MIN_COMMON_IMAGES:
        raise DataError(
            f"{a} and {b} were measured on different images: {common} are common, of "
            f"{sizes[0]} and {sizes[1]}; a comparison needs {MIN_COMMON_IMAGES}. "
            "Measure both on the same data with `vitral eval RUN DATA`, and compare "
            "the two .csv files."
        )


def _check_labels(
    a: Path, b: Path, pairs: Sequence[tuple[Prediction, Prediction]]
) -> None:
    differing = [pair for pair in pairs if pair[0].label != pair[1].label]
    if differing:
        row_a, row_b = differing[0]
        raise DataError(
            f"{len(differing)} of {len(pairs)} common images have another label, first "
            f"{row_a.path}: {row_a.label} in {a}, {row_b.label} in {b}. Both must be "
            "measured on the same data."
        )
