"""Random numbers of an objective: one row per example, a function of a key and its id.

The key comes from a generator. In training that is torch's own, which the loop seeds
from (run seed, step, part of the batch), so that a resumed run draws the same. An
example's numbers do not depend on its position in the batch or on other examples.
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
    """Draw the key of one batch's numbers.

    Args:
        generator: gives the key. None: torch's own in training and a constant in
            evaluation, so that the same patches are masked at every step.
    """
    if generator is None and not training:
        return _EVALUATION_KEY
    return int(torch.randint(2**63 - 1, (), generator=generator))


@torch.compiler.disable
def uniform(
    ids: Sequence[str], columns: int, purpose: str, key: int
) -> Float64[Tensor, "batch columns"]:
    """Draw numbers in [0, 1) on the CPU; `purpose` separates several draws of a key.

    An example that is in the batch several times gets other numbers each time.
    """
    seen: Counter[str] = Counter()
    rows = []
    for name in ids:
        repeat = (seen[name],) if seen[name] else ()
        rows.append(generator_for(purpose, key, name, *repeat).random(columns))
        seen[name] += 1
    return torch.from_numpy(np.stack(rows))
