"""representation.draws: a row an example, and one more for each time it is shown."""

import torch

from vitral.tasks.representation.draws import uniform


def test_an_example_shown_twice_gets_other_numbers():
    once = uniform(("a", "b"), 5, "mae", 7)
    several = uniform(("b", "a", "b", "b"), 5, "mae", 7)
    assert torch.equal(several[0], once[1])
    assert torch.equal(several[1], once[0])
    assert len({tuple(row) for row in several.tolist()}) == 4
    assert torch.equal(several, uniform(("b", "a", "b", "b"), 5, "mae", 7))
