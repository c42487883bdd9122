"""Data sets of the Hugging Face hub, or of a folder of Parquet files, by `datasets`.

`hf:OWNER/NAME`, `hf:OWNER/NAME:CONFIG` or `hf:./folder`. One picture column and one
label column; nothing that a repository contains is run.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitral.data.dataset import SPLIT_ALIASES, Dataset, Example
from vitral.data.images import DecodedImage, decode
from vitral.data.order import natural_key
from vitral.data.sources.torchvision_datasets import default_root
from vitral.errors import DataError, MissingExtraError

PREFIX = "hf:"
LABELS = ("label", "labels", "class", "fine_label")
"""Names of the label column, first come first served; a ClassLabel wins."""


@dataclass(frozen=True, kw_only=True)
class HubReader:
    """Read an example whose id is SPLIT/ROW; opens the set once a process."""

    name: str
    root: Path
    column: str

    def __call__(self, example: Example) -> DecodedImage:
        split, row = example.id.split("/")
        picture = _load_splits(self.name, self.root)[split][int(row)][self.column]
        # A picture is inside the table, or a file that the table names.
        return decode(picture["bytes"] or Path(picture["path"]))


def read_hub(name: str, root: Path | None = None) -> Dataset:
    """List the examples of a set that `datasets` can load.

    Args:
        name: with its prefix, `hf:`.
        root: data root; downloads are kept in its folder huggingface.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: the set cannot be loaded, or has other splits or columns.
    """
    root = root or default_root()
    parts = _load_splits(name, root)
    unknown = [split for split in parts if split not in SPLIT_ALIASES]
    if unknown:
        raise DataError(
            f"{name} has the split {unknown[0]}; splits must be called "
            f"{', '.join(SPLIT_ALIASES)}. Rename it, or export what you need as a "
            "folder."
        )
    features = next(iter(parts.values())).features
    column = _require_image_column(name, features)
    label = _require_label_column(name, features)
    classes = _class_names(name, parts, features[label], label)
    place = {word: index for index, word in enumerate(classes)}
    known = getattr(features[label], "names", None)
    examples = []
    for split, part in parts.items():
        for row, value in enumerate(part[label]):
            index = value if known is not None else place.get(str(value), -1)
            if not isinstance(index, int) or not 0 <= index < len(classes):
                raise DataError(
                    f"{name}: row {row} of {split} has the label {value}, which is no "
                    f"class. Leave out rows without a label."
                )
            # One split is no split: it is divided by hash.
            given = SPLIT_ALIASES[split] if len(parts) > 1 else ""
            examples.append(
                Example(id=f"{split}/{row:06d}", label=(index,), split=given)
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
    """Splits by name, with pictures as bytes."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs the package datasets: `pip install vitral[hf]`."
        ) from error
    where, _, config = name.removeprefix(PREFIX).partition(":")
    cache = str(root / "huggingface")
    try:
        loaded = datasets.load_dataset(where, config or None, cache_dir=cache)
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


def _find_image_column(features: Any) -> str:
    columns = [key for key, kind in features.items() if type(kind).__name__ == "Image"]
    return columns[0] if len(columns) == 1 else ""


def _require_image_column(name: str, features: Any) -> str:
    column = _find_image_column(features)
    if not column:
        raise DataError(
            f"{name} must have one column of pictures; its columns are "
            f"{_describe_columns(features)}. Choose another configuration or set."
        )
    return column


def _require_label_column(name: str, features: Any) -> str:
    labels = [k for k, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    if len(labels) == 1:
        return labels[0]
    found = [key for key in LABELS if key in (labels or features)]
    if not found:
        raise DataError(
            f"{name} must have a column of labels, called {' or '.join(LABELS)}; its "
            f"columns are {_describe_columns(features)}. Choose another configuration "
            "or set."
        )
    return found[0]


def _class_names(
    name: str, parts: dict[str, Any], kind: Any, column: str
) -> tuple[str, ...]:
    """Names as published, or the values that occur in train."""
    if getattr(kind, "names", None):
        return tuple(kind.names)
    train = parts.get("train", next(iter(parts.values())))
    values = {value for value in train[column] if value is not None}
    if not values or not all(isinstance(value, int | str) for value in values):
        raise DataError(
            f"{name}: the column {column} must hold a word or a whole number for each "
            "picture. Choose another set."
        )
    return tuple(sorted(map(str, values), key=natural_key))


def _describe_columns(features: Any) -> str:
    return ", ".join(f"{key} ({type(kind).__name__})" for key, kind in features.items())
