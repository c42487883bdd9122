"""Random numbers of an objective: one row an example, a function of a key and its id.

The key is one number of a generator. In training that is torch's own, which the loop
seeds from (run seed, step, part of the batch), so that a resumed run draws the same;
an example's numbers depend neither on its place in the batch nor on its neighbours.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vitral.data.rng import generator_for

_EVALUATION_KEY = 0


@torch.compiler.disable
def draw_key(generator: torch.Generator | None, training: bool) -> int:
    """What the numbers of one batch depend on.

    Args:
        generator: gives the key; None for torch's own in training and for a constant
            in evaluation, where steps are compared and the same patches must be
            hidden at each of them.
    """
    if generator is None and not training:
        return _EVALUATION_KEY
    return int(torch.randint(2**63 - 1, (), generator=generator))


@torch.compiler.disable
def uniform(
    ids: Sequence[str], columns: int, purpose: str, key: int
) -> Float64[Tensor, "batch columns"]:
    """Numbers in [0, 1) on the CPU; `purpose` keeps several draws of a key apart.

    An example that is in the batch several times gets other numbers each time.
    """
    seen: Counter[str] = Counter()
    rows = []
    for name in ids:
        again = (seen[name],) if seen[name] else ()
        rows.append(generator_for(purpose, key, name, *again).random(columns))
        seen[name] += 1
    return torch.from_numpy(np.stack(rows))
