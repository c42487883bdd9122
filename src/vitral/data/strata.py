"""Divide examples by class and by hash: every class gives each split its share.

The rule is a function of the names alone, so that a split can be repeated anywhere.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from vitral.data.example import Example
from vitral.data.rng import seed_for


def hash_fraction(seed: int, key: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the key alone."""
    # 53 bits: the most that a float in [0, 1) holds exactly.
    return (seed_for(seed, key) >> 11) / 2**53


@dataclass(kw_only=True, slots=True)
class _Unit:
    """An example, or a group of them, that goes to one split."""

    place: tuple[float, str]
    """Hash and name: the order in which units leave for test and val."""
    labels: set[int] = field(default_factory=set)
    size: int = 0
    split: str = ""


def choose_splits(
    examples: Sequence[Example],
    classes: tuple[str, ...],
    *,
    seed: int,
    val: int | float,
    test: int | float,
) -> list[str]:
    """Return the split of every example.

    The units of a class, in the order of their hashes, give the first `test` of its
    examples to test, the next `val` to val, and the rest to train. Its last unit is
    always in train. Of several labels the rarest is the class of a unit. Where all
    examples have the same labels, or none, the hash alone decides.
    """
    units: dict[str, _Unit] = {}
    for example in examples:
        # An id and a group may have the same name, and are then one unit.
        key = example.group or example.id
        unit = units.get(key)
        if unit is None:
            units[key] = unit = _Unit(place=(hash_fraction(seed, key), key))
        unit.labels.update(example.label)
        unit.size += 1
    if len({example.label for example in examples}) < 2:
        for unit in units.values():
            unit.split = _split_at(unit.place[0], val, test)
    else:
        for name, members in _strata(units.values(), examples, classes).items():
            members.sort(key=attrgetter("place"))
            # Whether a share is rounded up or down is chance, but the same each time.
            rounding = hash_fraction(seed, f"class {name}")
            _divide(members, rounding, val, test)
        _complete_train(units.values())
    return [units[example.group or example.id].split for example in examples]


def _strata(
    units: Iterable[_Unit],
    examples: Sequence[Example],
    classes: tuple[str, ...],
) -> dict[str, list[_Unit]]:
    """Return the units by the name of their rarest class; "" for those without."""
    frequency = Counter(label for example in examples for label in example.label)
    rarest_first = sorted(
        frequency, key=lambda label: (frequency[label], classes[label])
    )
    rank = {label: place for place, label in enumerate(rarest_first)}
    strata: dict[str, list[_Unit]] = {}
    for unit in units:
        name = classes[min(unit.labels, key=rank.__getitem__)] if unit.labels else ""
        strata.setdefault(name, []).append(unit)
    return strata


def _divide(
    units: list[_Unit], rounding: float, val: int | float, test: int | float
) -> None:
    total = sum(unit.size for unit in units)
    before = 0
    for unit in units:
        unit.split = _split_at((before + unit.size * (1 - rounding)) / total, val, test)
        before += unit.size
    units[-1].split = "train"


def _complete_train(units: Iterable[_Unit]) -> None:
    """Move a unit of each label that train lacks there, the one of the last hash."""
    having: dict[int, list[_Unit]] = {}
    for unit in units:
        for label in unit.labels:
            having.setdefault(label, []).append(unit)
    for _, members in sorted(having.items()):
        if not any(unit.split == "train" for unit in members):
            max(members, key=attrgetter("place")).split = "train"


def _split_at(position: float, val: int | float, test: int | float) -> str:
    if position < test:
        return "test"
    return "val" if position < test + val else "train"
