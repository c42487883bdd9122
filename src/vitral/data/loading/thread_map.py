"""Several images at once in one process: decoding and resizing leave Python's lock."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MIN_SECONDS_PER_ITEM = 0.001
"""Seconds for an item. Two threads on two cores took 1.8 times as long as one for
images of 0.4 ms, 1.16 for 0.6 ms, 0.80 for 1.3 ms and 0.68 for 1.9 ms: the rest is
waiting for Python's lock."""


def map_in_threads(
    function: Callable[[T], R], items: Iterable[T], threads: int
) -> list[R]:
    """What `function` gives for each item, in their order; an error ends it.

    Args:
        threads: how many may work at once, this one included. It works alone where an
            item takes too little time to share.
    """
    known = list(items)
    results: dict[int, R] = {}
    left = iter(range(len(known)))
    if threads > 1 and len(known) > threads:
        for place in (next(left), next(left)):
            began = time.perf_counter()
            results[place] = function(known[place])
            # The first may import something.
            took = time.perf_counter() - began
        if took < MIN_SECONDS_PER_ITEM:
            threads = 1
    errors: list[BaseException] = []

    def run(places: Iterator[int]) -> None:
        try:
            for place in places:
                results[place] = function(known[place])
                if errors:
                    return
        except BaseException as error:
            errors.append(error)

    helpers = [
        threading.Thread(target=run, args=(left,), daemon=True)
        for _ in range(threads - 1)
    ]
    for helper in helpers:
        helper.start()
    run(left)
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(known))]
