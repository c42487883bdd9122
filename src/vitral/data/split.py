"""Stable splits: train, val and test by a hash of (seed, id or group).

An example's split depends on nothing but the seed, its own key and the two shares, so
adding or removing files moves nothing. Saved as split.csv and reused.
"""

import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

from vitral.atomic_io import write_atomic
from vitral.data.dataset import SPLITS, Dataset, Example, shorten_names
from vitral.data.rng import seed_for
from vitral.errors import ConfigError, DataError


def hash_fraction(seed: int, key: str) -> float:
    """A number in [0, 1) that is fixed by the seed and the key alone."""
    # 53 bits: the most that a float in [0, 1) holds exactly.
    return (seed_for(seed, key) >> 11) / 2**53


def assign(
    dataset: Dataset, *, seed: int, val: int | float, test: int | float
) -> Dataset:
    """Give every example without a split one, by hash.

    Splits that the data set names are kept. With train and test only, val is carved
    out of train; with train and val only there is no test; with train only, both are
    carved out of it.

    Args:
        seed: another seed is another split.
        val: share of the examples for val; 0 for none.
        test: share of the examples for test; 0 for none.

    Raises:
        ConfigError: the shares are negative or leave nothing for train.
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
        test = 0.0
        if val:
            notes.append(f"val is {val:.0%} of train, by hash: no val split was given")
    elif given == {"train", "val"}:
        val = test = 0.0
        notes.append("no test split: only train and val were given")
    elif given == set(SPLITS):
        val = test = 0.0
    elif given == {"train"}:
        notes.append("val and test are carved out of train, by hash")
    movable = "train" if given else ""
    examples = tuple(
        example.with_split(_split_by_hash(example, seed, val, test))
        if example.split == movable
        else example
        for example in dataset.examples
    )
    result = replace(dataset, examples=examples, notes=tuple(notes))
    return replace(result, notes=(*notes, *_gap_notes(result, val, test)))


def save(dataset: Dataset, path: Path) -> None:
    """Write `path,label,split,group` for every example, atomically."""
    with_groups = any(example.group for example in dataset.examples)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split", *(["group"] if with_groups else [])])
    for example in dataset.examples:
        label = ";".join(dataset.classes[index] for index in example.label)
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
    """Take the splits from a saved split.csv.

    Examples the file does not know join the split of their group if it has one, and
    get the hash rule otherwise; ids that vanished are noted.

    Raises:
        DataError: the file is not a split.csv.
    """
    saved, groups = _load_splits(path)
    known = [example.id for example in dataset.examples if example.id in saved]
    if not known:
        raise DataError(
            f"{path} names none of the {len(dataset.examples)} examples of "
            f"{dataset.root}. It belongs to another data set; remove it or correct "
            "the path."
        )
    # A new member of a known group must not part from it.
    fallback = {
        example.id: groups.get(example.group, "") for example in dataset.examples
    }
    chosen = tuple(
        saved.get(example.id)
        or fallback[example.id]
        or _split_by_hash(example, seed, val, test)
        for example in dataset.examples
    )
    examples = tuple(
        example.with_split(split)
        for example, split in zip(dataset.examples, chosen, strict=True)
    )
    notes = list(dataset.notes)
    vanished = sorted(set(saved) - set(known))
    added = len(examples) - len(known)
    if vanished:
        notes.append(
            f"{len(vanished)} example(s) of the saved split are gone: "
            f"{shorten_names(vanished, 5)}"
        )
    if added:
        notes.append(f"{added} example(s) are newer than the saved split")
    return replace(dataset, examples=examples, notes=tuple(notes))


def _split_by_hash(
    example: Example, seed: int, val: int | float, test: int | float
) -> str:
    place = hash_fraction(seed, example.group or example.id)
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


def _gap_notes(dataset: Dataset, val: int | float, test: int | float) -> list[str]:
    """Notes on empty splits and classes that the hash left out."""
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
    for split, per_class in counts.items():
        missing = [name for name, number in per_class.items() if not number]
        if missing:
            notes.append(f"{split} has no example of {shorten_names(missing)}")
    # Only splits that the data set names itself can part a group.
    pairs = {(item.group, item.split) for item in dataset.examples if item.group}
    times = Counter(group for group, _ in pairs)
    parted = sorted(group for group, number in times.items() if number > 1)
    if parted:
        notes.append(
            f"{len(parted)} group(s) are in more than one given split: "
            f"{shorten_names(parted, 5)}"
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
