"""Merge a labelled data set with images that a teacher has labelled.

A .json file names both; the editable table of pseudo-labels is next to it. Labelled
images keep ids and splits; pseudo-labelled images are for training only.
vitral.workflows.self_training.self_train writes the files.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitral import config_io
from vitral.data.dataset import Dataset, FileReader
from vitral.data.example import Example
from vitral.data.images import DecodedImage
from vitral.data.names import canonical_name
from vitral.data.sources.table_rows import json_rows, read_text
from vitral.data.split import apply
from vitral.data.targets import ClassShares
from vitral.data.video import Clip
from vitral.errors import ConfigError, DataError

PREFIX = "unlabelled:"
"""Prefix of the ids of pseudo-labelled images, before the path."""
TABLE = "pseudo.jsonl"


@dataclass(frozen=True, kw_only=True)
class PseudoData:
    """The content of the .json file."""

    labelled: str
    """Argument of `data.open`."""
    group_by: str
    seed: int
    val: float
    test: float
    """Fractions for the labelled images that `split` does not name, with `val`."""
    split: str
    """Path of the saved split of the labelled images, relative to this file."""
    unlabelled: str
    """Folder that the paths of the table are relative to."""
    smoothing: float
    """Label smoothing in the targets of the labelled training images."""
    labelled_copies: int
    """Copies of each labelled training image in an epoch."""
    pseudo_copies: int
    """Factor on the copies of each pseudo-labelled image."""


@dataclass(frozen=True, kw_only=True)
class RepeatedExample(Example):
    """Copy of an example with another id, so that its augmentation differs."""

    source_id: str
    """Id of the original, for the reader."""
    labelled: bool

    def with_split(self, split: str) -> "RepeatedExample":
        return replace(self, split=split)


@dataclass(frozen=True, kw_only=True)
class MergedReader:
    """Read an example from the set it came from."""

    labelled: Callable[[Example], DecodedImage | Clip]
    unlabelled: Callable[[Example], DecodedImage | Clip]

    def __call__(self, example: Example) -> DecodedImage | Clip:
        if not isinstance(example, RepeatedExample):
            return self.labelled(example)
        reader = self.labelled if example.labelled else self.unlabelled
        return reader(replace(example, id=example.source_id))


def read_pseudo_data(file: Path) -> PseudoData:
    """Read the .json file.

    Raises:
        DataError: the content is not that of `PseudoData`.
    """
    try:
        values = json.loads(read_text(file))
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, got {type(values).__name__}")
        return config_io.from_dict(PseudoData, values, file)
    except (ValueError, ConfigError) as error:
        raise DataError(
            f"{file} does not say which labelled and pseudo-labelled images belong "
            f"together: {error} A folder, a .csv or .jsonl table or a name is data "
            "too."
        ) from error


def read_pseudo(file: Path, list_examples: Callable[[str, str], Dataset]) -> Dataset:
    """List the examples of both sets, all with a split.

    Args:
        list_examples: returns a data set from its name or path and its `group_by`.

    Raises:
        DataError: file or table is invalid; the message names line and remedy.
    """
    data = read_pseudo_data(file)
    base = list_examples(data.labelled, data.group_by)
    counts = {len(item.label) for item in base.examples if item.target is None}
    if counts - {1} or base.kind != "images":
        raise DataError(
            f"{data.labelled} has {base.kind} with "
            f"{'several labels' if counts - {1} else 'one label'} each: pseudo-"
            "labels are for images of one class."
        )
    base = apply(
        base,
        file.parent / data.split,
        seed=data.seed,
        val=data.val,
        test=data.test,
    )
    num_classes = len(base.classes)
    examples: list[Example] = []
    for example in base.examples:
        if example.split != "train":
            examples.append(example)
            continue
        smoothed = _smooth_labels(example, num_classes, data.smoothing)
        examples += _repeat_example(smoothed, data.labelled_copies, labelled=True)
    for example, copies in _read_pseudo_labels(file.parent / TABLE, base.classes):
        examples += _repeat_example(
            example, copies * data.pseudo_copies, labelled=False
        )
    _check_unique(file, examples)
    return replace(
        base,
        name=f"{base.name} with pseudo-labels",
        examples=tuple(examples),
        reader=MergedReader(
            labelled=base.reader, unlabelled=FileReader(root=Path(data.unlabelled))
        ),
        order=None,  # an order of shards is valid for their examples alone
    )


def _smooth_labels(example: Example, num_classes: int, smoothing: float) -> Example:
    if not smoothing:
        return example
    target = example.target or ClassShares(example.label, (1.0,) * len(example.label))
    return replace(example, target=target.smooth(smoothing, num_classes))


def _repeat_example(example: Example, count: int, *, labelled: bool) -> list[Example]:
    """Return `count` copies; the first copy of a labelled example is the original."""
    id_ = example.id if labelled else f"{PREFIX}{example.id}"
    values = {name: getattr(example, name) for name in Example.__dataclass_fields__}
    copies: list[Example] = [example] if labelled else []
    for copy in range(len(copies), count):
        values["id"] = id_ if copy == 0 else f"{id_}#{copy + 1}"
        copies.append(
            RepeatedExample(**values, source_id=example.id, labelled=labelled)
        )
    return copies


def _check_unique(file: Path, examples: list[Example]) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(
                f"{file}: two images are called {example.id!r}. Rename the file of one."
            )
        seen.add(example.id)


def _read_pseudo_labels(
    table: Path, classes: tuple[str, ...]
) -> list[tuple[Example, int]]:
    """Return the examples of the table, each with its number of copies."""
    class_index = {name: index for index, name in enumerate(classes)}
    rows = []
    for line, row in json_rows(table, read_text(table)):
        where = f"{table.name} line {line}"
        path, label, copies = row["path"], row["label"], row.get("copies", 1)
        label = canonical_name(label) if isinstance(label, str) else label
        if not isinstance(path, str) or not path:
            raise DataError(
                f"{where}: expected a path, got {path!r}. Correct or remove the row."
            )
        if label not in class_index:
            raise DataError(
                f"{where}: the label {label!r} is no class of the labelled images: "
                f"{', '.join(classes)}. Correct it, or remove the row."
            )
        if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
            raise DataError(
                f"{where}: `copies` must be a whole number of at least 1: got "
                f"{copies!r}. Correct it, or remove the row."
            )
        example = Example(
            id=path,
            label=(class_index[label],),
            target=_parse_target(where, row.get("target"), class_index, label),
            split="train",
        )
        rows.append((example, copies))
    return rows


def _parse_target(
    where: str, shares: Any, class_index: dict[str, int], label: str
) -> ClassShares | None:
    """Return the soft target of a row; None if its label was edited."""
    if shares is None:
        return None
    is_valid = isinstance(shares, dict) and all(
        isinstance(share, int | float) and share >= 0 for share in shares.values()
    )
    if (
        not is_valid
        or not set(shares) <= set(class_index)
        or not sum(shares.values()) > 0
    ):
        raise DataError(
            f"{where}: `target` must give shares of at least 0 to classes of the "
            f"labelled images: got {shares!r}. Correct it, or remove it."
        )
    if shares.get(label, 0.0) < max(shares.values()):
        return None
    return ClassShares.from_weights(
        {class_index[name]: share for name, share in shares.items()}
    )
