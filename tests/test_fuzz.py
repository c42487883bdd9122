"""benchmarks/fuzz.py: a part of its inputs, and that it sees what it looks for."""

from pathlib import Path

import pytest
from benchmarks import fuzz

from vitral.errors import ImageError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> fuzz.Fuzz:
    return fuzz.Fuzz(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutated_inputs_are_read_or_refused(kind, inputs):
    tally = fuzz.run_kind(inputs, kind, range(150), seed=7)
    assert tally.failures == []
    assert tally.outcomes.total() == 150
    # Neither all refused nor all read: the mutations reach the inside.
    assert 0 < tally.outcomes["read"] < 150


def test_an_input_is_a_function_of_its_number(inputs):
    seen: list[bytes] = []

    class Kept(fuzz.Fuzz):
        def __init__(self) -> None:
            self.images = inputs.images

        def image(self, rng) -> None:
            seen.append(fuzz.mutate(self.images[0], rng))

    fuzz.run_kind(Kept(), "image", range(3), seed=1)
    fuzz.run_kind(Kept(), "image", range(1, 2), seed=1)
    assert seen[3] == seen[1] != seen[2]


def test_a_fault_is_counted_with_the_command_that_repeats_it(tmp_path: Path):
    class Faulty(fuzz.Fuzz):
        def __init__(self) -> None:
            self.calls = 0

        def table(self, rng) -> None:
            self.calls += 1
            if self.calls == 2:
                raise RecursionError("too deep")
            raise ImageError("refused")

    tally = fuzz.run_kind(Faulty(), "table", range(3), seed=4)
    (failure,) = tally.failures
    assert failure == (
        "RecursionError: too deep  python benchmarks/fuzz.py table --seed 4 --only 1"
    )
    assert tally.outcomes == {"refused: ImageError": 2, "failed": 1}
