"""Stable splits: train, val and test by class, and a hash of (seed, id or group).

`strata` holds the rule. A split is saved as split.csv and reused.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vitral.atomic_io import write_atomic
from vitral.data.dataset import SPLITS, Dataset, shorten_names
from vitral.data.names import canonical_name, join_names
from vitral.data.strata import choose_splits
from vitral.errors import ConfigError, DataError

FEW_VAL_IMAGES = 30
"""Images of val below which a note says that its numbers are rough: the 95 % interval
of a share of 30 images is up to 34 points wide."""


def assign(
    dataset: Dataset, *, seed: int, val: int | float, test: int | float
) -> Dataset:
    """Assign a split by class and hash to every example without one.

    Splits that the data set names stay. With train and test only, val is taken from
    train; with train and val only there is no test; with train only, both are taken
    from it.

    Args:
        seed: seed of the hash; another seed is another split.
        val: fraction of the examples for val. 0: none.
        test: fraction of the examples for test. 0: none.

    Raises:
        ConfigError: the fractions are negative or leave nothing for train.
        DataError: train would be empty.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ConfigError(
            "`val` and `test` must be shares of at least 0 that leave something for "
            f"train: got val={val} and test={test}."
        )
    given = {example.split for example in dataset.examples} - {""}
    notes = list(dataset.notes)
    if given == {"train", "test"}:
        if test:
            notes.append("test is the data's own: no share was taken for it")
        test = 0.0
        if val:
            notes.append(f"val is {val:.0%} of train, by hash: no val split was given")
    elif given == {"train", "val"}:
        val = test = 0.0
        notes.append("no test split: only train and val were given")
    elif given == set(SPLITS):
        if val or test:
            notes.append("train, val and test are the data's own: no shares were taken")
        val = test = 0.0
    elif given == {"train"}:
        notes.append("val and test are carved out of train, by hash")
    movable = "train" if given else ""
    moved = [example for example in dataset.examples if example.split == movable]
    chosen = iter(choose_splits(moved, dataset.classes, seed=seed, val=val, test=test))
    examples = tuple(
        example.with_split(next(chosen)) if example.split == movable else example
        for example in dataset.examples
    )
    result = replace(dataset, examples=examples, notes=tuple(notes))
    return replace(result, notes=(*notes, *_gap_notes(result, val, test)))


def held_out(splits: Iterable[str]) -> str:
    """Return the split to measure on: test, else val; "" if there is neither."""
    present = set(splits)
    return next((name for name in ("test", "val") if name in present), "")


def save(dataset: Dataset, path: Path) -> None:
    """Write `path,label,split,group` for every example, atomically."""
    with_groups = any(example.group for example in dataset.examples)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split", *(["group"] if with_groups else [])])
    for example in dataset.examples:
        label = join_names(dataset.classes[index] for index in example.label)
        group = [example.group] if with_groups else []
        writer.writerow([example.id, label, example.split, *group])
    write_atomic(path, text.getvalue())


def apply(
    dataset: Dataset,
    path: Path,
    *,
    seed: int = 0,
    val: int | float = 0.1,
    test: int | float = 0.2,
) -> Dataset:
    """Apply the splits of a saved split.csv.

    New examples join the split of their group if it has one, else the split that the
    data set gives them, or a new split of all would; a note reports ids that vanished.

    Raises:
        DataError: the file is not a split.csv.
    """
    saved, groups = _load_splits(path)
    # Another disk may give the same names in another Unicode form.
    by_name = {canonical_name(path): path for path in saved}
    present = {
        example.id: example.id if example.id in saved else by_name[name]
        for example in dataset.examples
        if (name := canonical_name(example.id)) in by_name
    }
    if not present:
        raise DataError(
            f"{path} names none of the {len(dataset.examples)} examples of "
            f"{dataset.root}. It belongs to another data set; remove it or correct "
            "the path."
        )
    fresh = choose_splits(
        dataset.examples, dataset.classes, seed=seed, val=val, test=test
    )
    examples = tuple(
        example.with_split(
            (example.id in present and saved[present[example.id]])
            # A new member of a saved group must join its split.
            or groups.get(example.group)
            or example.split
            or split
        )
        for example, split in zip(dataset.examples, fresh, strict=True)
    )
    notes = list(dataset.notes)
    vanished = sorted(set(saved) - set(present.values()))
    added = len(examples) - len(present)
    if vanished:
        notes.append(
            f"{len(vanished)} example(s) of the saved split are gone: "
            f"{shorten_names(vanished, 5)}"
        )
    if added:
        notes.append(f"{added} example(s) are newer than the saved split")
    return replace(dataset, examples=examples, notes=tuple(notes))


def _gap_notes(dataset: Dataset, val: int | float, test: int | float) -> list[str]:
    """Describe empty splits, missing or similar classes, and divided groups."""
    counts = dataset.counts()
    if "train" not in counts:
        raise DataError(
            f"{dataset.root}: no example is left for train of {len(dataset.examples)}. "
            f"Lower val and test, choose another seed, or add {dataset.kind}."
        )
    notes = [
        f"{split} is empty: too few examples or groups for its share"
        for split, share in (("val", val), ("test", test))
        if share and split not in counts
    ]
    few = len(dataset.select("val"))
    if 0 < few < FEW_VAL_IMAGES:
        notes.append(
            f"val has fewer than {FEW_VAL_IMAGES} {dataset.kind} ({few}): its numbers, "
            "and the step that they choose as the best, are rough"
        )
    for split, per_class in counts.items():
        missing = [name for name, count in per_class.items() if not count]
        if missing:
            notes.append(f"{split} has no example of {shorten_names(missing)}")
    near: dict[str, list[str]] = {}
    for name in dataset.classes:
        near.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(names) for names in near.values() if len(names) > 1]
    if alike:
        notes.append(
            f"classes differ in upper and lower case only: {shorten_names(alike)}; "
            "merge them if they are one"
        )
    # Only splits that the data set names can divide a group.
    pairs = {(item.group, item.split) for item in dataset.examples if item.group}
    splits_per_group = Counter(group for group, _ in pairs)
    divided = sorted(group for group, count in splits_per_group.items() if count > 1)
    if divided:
        notes.append(
            f"{len(divided)} group(s) are in more than one given split: "
            f"{shorten_names(divided, 5)}"
        )
    return notes


def _load_splits(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as a split.csv: {error}. Remove it to make a new "
            "split."
        ) from error
    saved: dict[str, str] = {}
    groups: dict[str, str] = {}
    for row in rows:
        split = row.get("split")
        if split not in SPLITS or not row.get("path"):
            raise DataError(
                f"{path}: expected the columns path,label,split with splits "
                f"{', '.join(SPLITS)}; got {dict(row)}. Remove it to make a new split."
            )
        saved[row["path"]] = split
        if row.get("group"):
            groups[row["group"]] = split
    return saved, groups
