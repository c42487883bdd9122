"""Data sets of the Hugging Face hub, or a folder of Parquet files, with `datasets`.

`hf:OWNER/NAME`, `hf:OWNER/NAME:CONFIG` or `hf:./folder`. One picture column and one
label column; no code of a repository is run.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitral.data.dataset import SPLIT_ALIASES, Dataset
from vitral.data.example import Example
from vitral.data.images import DecodedImage, decode
from vitral.data.order import natural_key
from vitral.data.sources.torchvision_datasets import default_root
from vitral.errors import DataError, MissingExtraError

PREFIX = "hf:"
LABELS = ("label", "labels", "class", "fine_label")
"""Names of the label column by priority; a ClassLabel comes before them."""


@dataclass(frozen=True, kw_only=True)
class HubReader:
    """Read an example whose id is SPLIT/ROW; open the set once per process."""

    name: str
    root: Path
    column: str

    def __call__(self, example: Example) -> DecodedImage:
        split, row = example.id.split("/")
        picture = _load_splits(self.name, self.root)[split][int(row)][self.column]
        # A picture is in the table, or a file that the table names.
        return decode(picture["bytes"] or Path(picture["path"]))


def read_hub(name: str, root: Path | None = None) -> Dataset:
    """List the examples of a set that `datasets` can load.

    Args:
        name: with its prefix, `hf:`.
        root: data root; downloads go to its folder huggingface.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: the set cannot be loaded, or has other splits or columns.
    """
    root = root or default_root()
    splits = _load_splits(name, root)
    unknown = [split for split in splits if split not in SPLIT_ALIASES]
    if unknown:
        raise DataError(
            f"{name} has the split {unknown[0]}; splits must be called "
            f"{', '.join(SPLIT_ALIASES)}. Rename it, or export what you need as a "
            "folder."
        )
    features = next(iter(splits.values())).features
    types = _column_types(features)
    column, label = _find_image_column(features), choose_label_column(types, types)
    for present, expected in (
        (column, "one column of pictures"),
        (label, f"a column of labels, called {' or '.join(LABELS)}"),
    ):
        if not present:
            described = ", ".join(f"{key} ({kind})" for key, kind in types.items())
            raise DataError(
                f"{name} must have {expected}; its columns are {described}. Choose "
                "another configuration or set."
            )
    classes = _class_names(name, splits, features[label], label)
    class_index = {name: index for index, name in enumerate(classes)}
    published = getattr(features[label], "names", None)
    examples = []
    for split, rows in splits.items():
        for row, value in enumerate(rows[label]):
            index = value if published is not None else class_index.get(str(value), -1)
            if not isinstance(index, int) or not 0 <= index < len(classes):
                raise DataError(
                    f"{name}: row {row} of {split} has the label {value}, which is no "
                    f"class. Leave out rows without a label."
                )
            # A single split is divided by hash.
            split_name = SPLIT_ALIASES[split] if len(splits) > 1 else ""
            examples.append(
                Example(id=f"{split}/{row:06d}", label=(index,), split=split_name)
            )
    return Dataset(
        name=name,
        root=root / "huggingface",
        classes=classes,
        examples=tuple(examples),
        reader=HubReader(name=name, root=root, column=column),
    )


@lru_cache(maxsize=4)
def _load_splits(name: str, root: Path) -> dict[str, Any]:
    """Return the splits by name, with pictures as bytes."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs the package datasets: `pip install vitral[hf]`."
        ) from error
    repository, _, config = name.removeprefix(PREFIX).partition(":")
    cache = str(root / "huggingface")
    try:
        loaded = datasets.load_dataset(repository, config or None, cache_dir=cache)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{name} cannot be loaded by datasets: {reason}. Correct the name, or "
            "place the set's Parquet files into a folder and give hf:./FOLDER."
        ) from error
    return {
        str(split): part.cast_column(column, datasets.Image(decode=False))
        if (column := _find_image_column(part.features))
        else part
        for split, part in loaded.items()
    }


def _column_types(features: Any) -> dict[str, str]:
    return {name: type(feature).__name__ for name, feature in features.items()}


def _find_image_column(features: Any) -> str:
    types = _column_types(features)
    columns = [name for name, type_name in types.items() if type_name == "Image"]
    return columns[0] if len(columns) == 1 else ""


def choose_label_column(types: dict[str, str], columns: Iterable[str]) -> str:
    """Return the only ClassLabel, else the first of LABELS; "" if there is none."""
    labels = [name for name, type_name in types.items() if type_name == "ClassLabel"]
    if len(labels) == 1:
        return labels[0]
    return next((name for name in LABELS if name in (labels or columns)), "")


def _class_names(
    name: str, splits: dict[str, Any], feature: Any, column: str
) -> tuple[str, ...]:
    """Return the published names, or the values that occur in train."""
    if getattr(feature, "names", None):
        return tuple(feature.names)
    train = splits.get("train", next(iter(splits.values())))
    values = {value for value in train[column] if value is not None}
    if not values or not all(isinstance(value, int | str) for value in values):
        raise DataError(
            f"{name}: the column {column} must hold a word or a whole number for each "
            "picture. Choose another set."
        )
    return tuple(sorted(map(str, values), key=natural_key))
