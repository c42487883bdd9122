"""A labelled data set together with images that a teacher has labelled.

A .json file says which two, and beside it lies the table of pseudo-labels, which a
person may read and mend. The labelled images keep their ids and their splits; every
pseudo-labelled image is one to train on. Who writes the file is in
vitral.workflows.self_training.self_train.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vitral import config_io
from vitral.atomic_io import write_json
from vitral.data.dataset import Dataset, Example, FileReader
from vitral.data.images import DecodedImage
from vitral.data.sources.table_rows import json_rows, read_text
from vitral.data.split import apply
from vitral.data.video import Clip
from vitral.errors import ConfigError, DataError

PREFIX = "unlabelled:"
"""Before the path in the id of a pseudo-labelled image."""
TABLE = "pseudo.jsonl"


@dataclass(frozen=True, kw_only=True)
class PseudoData:
    """The content of the .json file."""

    labelled: str
    """What `data.open` takes."""
    group_by: str
    seed: int
    val: float
    test: float
    """Of the split of the labelled images that `split` does not name."""
    split: str
    """The saved split of the labelled images, relative to this file."""
    unlabelled: str
    """The folder that the paths of the table are relative to."""
    smoothing: float
    """Label smoothing of the labelled training images, in their targets."""
    labelled_copies: int
    """How often each labelled training image is seen in an epoch."""
    pseudo_copies: int
    """The same for the pseudo-labelled ones, times the copies of each row."""


@dataclass(frozen=True, kw_only=True)
class RepeatedExample(Example):
    """An example under an id of its own, so that its augmentation is its own."""

    source_id: str
    """The id that the reader knows."""
    labelled: bool

    def with_split(self, split: str) -> "RepeatedExample":
        """The same, and still repeated."""
        return replace(self, split=split)


@dataclass(frozen=True, kw_only=True)
class MergedReader:
    """Read an example from the set that it came from."""

    labelled: Callable[[Example], DecodedImage | Clip]
    unlabelled: Callable[[Example], DecodedImage | Clip]

    def __call__(self, example: Example) -> DecodedImage | Clip:
        if not isinstance(example, RepeatedExample):
            return self.labelled(example)
        reader = self.labelled if example.labelled else self.unlabelled
        return reader(replace(example, id=example.source_id))


def write_pseudo(file: Path, content: PseudoData) -> None:
    """The .json file; its table must be there already."""
    write_json(file, asdict(content))


def read_pseudo_data(file: Path) -> PseudoData:
    """What a .json file merges.

    Raises:
        DataError: it is not such a file.
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
    """The examples of both sets, all with their split.

    Args:
        list_examples: from a data set's name or path, and what groups it, to its
        examples.

    Raises:
        DataError: naming the file, and the line of the table, and what to do.
    """
    about = read_pseudo_data(file)
    base = list_examples(about.labelled, about.group_by)
    if base.multi_label or base.kind != "images":
        raise DataError(
            f"{about.labelled} has {base.kind} with "
            f"{'several labels' if base.multi_label else 'one label'} each: pseudo-"
            "labels are for images of one class."
        )
    base = apply(
        base,
        file.parent / about.split,
        seed=about.seed,
        val=about.val,
        test=about.test,
    )
    num_classes = len(base.classes)
    examples: list[Example] = []
    for example in base.examples:
        if example.split != "train":
            examples.append(example)
            continue
        smoothed = _smooth_labels(example, num_classes, about.smoothing)
        examples += _repeat_example(smoothed, about.labelled_copies, labelled=True)
    for example, copies in _read_pseudo_labels(file.parent / TABLE, base.classes):
        examples += _repeat_example(
            example, copies * about.pseudo_copies, labelled=False
        )
    _check_unique(file, examples)
    return replace(
        base,
        name=f"{base.name} with pseudo-labels",
        examples=tuple(examples),
        reader=MergedReader(
            labelled=base.reader, unlabelled=FileReader(root=Path(about.unlabelled))
        ),
        order=None,  # that of shards holds for their examples alone
    )


def _smooth_labels(example: Example, num_classes: int, smoothing: float) -> Example:
    """The example with the target that label smoothing makes of its own."""
    if not smoothing:
        return example
    target = example.target or tuple(
        float(index in example.label) for index in range(num_classes)
    )
    moved = tuple((1 - smoothing) * share + smoothing / num_classes for share in target)
    return replace(example, target=moved)


def _repeat_example(example: Example, count: int, *, labelled: bool) -> list[Example]:
    """The example so many times; a labelled one keeps its id in the first."""
    id_ = example.id if labelled else f"{PREFIX}{example.id}"
    values = {name: getattr(example, name) for name in Example.__dataclass_fields__}
    made: list[Example] = [example] if labelled else []
    for copy in range(len(made), count):
        values["id"] = id_ if copy == 0 else f"{id_}#{copy + 1}"
        made.append(RepeatedExample(**values, source_id=example.id, labelled=labelled))
    return made


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
    """The rows with how often each is seen."""
    place = {name: index for index, name in enumerate(classes)}
    found = []
    for line, row in json_rows(table, read_text(table)):
        where = f"{table.name} line {line}"
        path, label, copies = row["path"], row["label"], row.get("copies", 1)
        if not isinstance(path, str) or not path:
            raise DataError(
                f"{where}: expected a path, got {path!r}. Correct or remove the row."
            )
        if label not in place:
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
            label=(place[label],),
            target=_parse_target(where, row.get("target"), place, label),
            split="train",
        )
        found.append((example, copies))
    return found


def _parse_target(
    where: str, shares: Any, class_index: dict[str, int], label: str
) -> tuple[float, ...] | None:
    """The soft target of a row; None where a person has given it another label."""
    if shares is None:
        return None
    numbers = isinstance(shares, dict) and all(
        isinstance(share, int | float) and share >= 0 for share in shares.values()
    )
    if (
        not numbers
        or not set(shares) <= set(class_index)
        or not sum(shares.values()) > 0
    ):
        raise DataError(
            f"{where}: `target` must give shares of at least 0 to classes of the "
            f"labelled images: got {shares!r}. Correct it, or remove it."
        )
    if shares.get(label, 0.0) < max(shares.values()):
        return None
    total = sum(shares.values())
    target = [0.0] * len(class_index)
    for name, share in shares.items():
        target[class_index[name]] = share / total
    return tuple(target)
