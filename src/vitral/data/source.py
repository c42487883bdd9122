"""One word for every source of examples: a folder, a table or a name."""

from pathlib import Path
from typing import Literal

from vitral.data import split
from vitral.data.dataset import DataSet
from vitral.data.folder import read_folder
from vitral.data.named import NAMES, nearest, read_named
from vitral.data.table import read_table
from vitral.errors import ConfigError, DataError

TABLES = ("labels.csv", "labels.jsonl")


def open_data(
    data: str | Path,
    *,
    seed: int = 0,
    val: int | float = 0.1,
    test: int | float = 0.2,
    group_by: str = "",
    root: Path | None = None,
    kind: Literal["auto", "clips"] = "auto",
) -> DataSet:
    """List the examples of a data set and give each a split.

    Args:
        data: a folder of class folders, a folder with a labels.csv or labels.jsonl,
            a .csv or .jsonl file, or a name such as "digits" or "cifar10". A folder
            or file wins over a name; "./name" is always a path.
        seed: of the split by hash, where the data set names no splits.
        val: share for val; 0 for none.
        test: share for test; 0 for none.
        group_by: keeps examples together: "folder" or a regular expression on the
            path for a folder, a column for a table; "" for no groups.
        root: where named data sets are kept and downloaded to.
        kind: "auto" takes images, and clips where there is no image; "clips", as a
            video model needs, takes clips only and a folder of frames for one.

    Raises:
        DataError: the data set is unusable; the message says why.
        ConfigError: nothing has this name, or a setting is not allowed.
        MissingExtraError: there are video files and PyAV is not installed.
    """
    dataset = _listed(data, group_by, root, kind)
    return split.assign(dataset, seed=seed, val=val, test=test)


def _listed(
    data: str | Path, group_by: str, root: Path | None, kind: Literal["auto", "clips"]
) -> DataSet:
    """The data set before `split.assign`."""
    path = Path(data)
    if path.is_dir():
        tables = [path / name for name in TABLES if (path / name).is_file()]
        if len(tables) > 1:
            raise DataError(f"{path} holds both {' and '.join(TABLES)}. Remove one.")
        if tables:
            return read_table(tables[0], group_by, kind)
        return read_folder(path, group_by, kind)
    if path.is_file():
        if path.suffix not in (".csv", ".jsonl"):
            raise ConfigError(
                f"data must be a folder, a .csv or .jsonl table, or a name: got the "
                f"file {path}."
            )
        return read_table(path, group_by, kind)
    if str(data) in NAMES:
        if group_by:
            raise ConfigError(
                f"group_by works on folders and tables: got {group_by!r} for the named "
                f"data set {data}. Leave it empty."
            )
        if kind == "clips":
            raise DataError(
                f"The data set {data} holds images, but a video model needs clips. "
                "Give a folder or table of clips, or choose a model of images."
            )
        return read_named(str(data), root)
    raise ConfigError(
        f"data {str(data)!r} is neither a folder, a table nor a known name. "
        f"Nearest names: {', '.join(nearest(str(data)))}. Correct the path or name."
    )
