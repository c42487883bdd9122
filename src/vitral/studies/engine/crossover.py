"""Find the data-set size at which one model overtakes another."""

from collections.abc import Callable, Sequence

from vitral.studies.engine.table import Difference

DifferenceFn = Callable[[str, str, int], Difference]
"""Difference of the first name to the second at a number of images."""


def describe_leaders(
    names: Sequence[str], sizes: Sequence[int], gap: DifferenceFn
) -> list[str]:
    """Return a sentence per name that compares it with the best at the largest size.

    Args:
        sizes: numbers of images, rising.
    """
    most = sizes[-1]
    best = names[0]
    for name in names[1:]:
        if gap(name, best, most).value > 0:
            best = name
    return [_describe_pair(best, other, sizes, gap) for other in names if other != best]


def _describe_pair(
    best: str, other: str, sizes: Sequence[int], gap: DifferenceFn
) -> str:
    gaps = {size: gap(best, other, size) for size in sizes}
    few, many = sizes[0], sizes[-1]
    first, last = gaps[few], gaps[many]
    behind = [size for size in sizes if (-gaps[size].value) > gaps[size].noise]
    ahead = [size for size in sizes if gaps[size].is_ahead]
    if behind and last.is_ahead:
        after = min(size for size in ahead if size > max(behind))
        return (
            f"The order turns: with {few:,} images {best} is at {first} against "
            f"{other}, with {many:,} at {last}; it is behind up to {max(behind):,} and "
            f"ahead from {after:,}."
        )
    if len(ahead) == len(sizes):
        return (
            f"{best} is ahead of {other} at every size: {first} with {few:,} images, "
            f"{last} with {many:,}."
        )
    if last.is_ahead:
        return (
            f"{best} is ahead of {other} with {many:,} images ({last}); with {few:,} "
            f"they cannot be told apart ({first})."
            if few not in ahead
            else f"{best} is ahead of {other} with {few:,} images ({first}) and with "
            f"{many:,} ({last}), but not clearly at every size between."
        )
    start = f"{best} and {other} cannot be told apart with {many:,} images ({last})"
    if few in behind:
        return f"{start}; with {few:,} {other} is ahead ({first})."
    if few in ahead:
        return f"{start}; with {few:,} {best} is ahead ({first})."
    return f"{start}, nor with {few:,} ({first})."
