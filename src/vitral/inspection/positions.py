"""Similarity of position embeddings (arXiv 2010.11929, figures 7 and 10)."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import resolve_indices
from vitral.layers import Grid, RelativePosition
from vitral.models import VisionModel


@runtime_checkable
class _HasPositions(Protocol):
    """A model that adds position embeddings to its tokens."""

    def positions(self, grid: Grid) -> Tensor | None: ...


def position_similarity(
    model: VisionModel, layer: int = 0
) -> Float[Tensor, "patches patches"]:
    """Return the cosine of the position embeddings of any two patches, in float64.

    The result is on the CPU. Patches are in row-major order on the model's own grid,
    without prefix tokens. Relative positions have no row for a patch: the list of its
    learned keys for all patches, r(i - 1) ... r(i - N), replaces it, because it decides
    the scores of a query there.

    Args:
        layer: index of the table, if each layer has its own.

    Raises:
        ConfigError: the model has no positions, or not such a layer.
    """
    grid = model.config.grid
    with torch.no_grad():
        added = model.positions(grid) if isinstance(model, _HasPositions) else None
        if added is not None:
            table = added[resolve_indices([layer], len(added), "layers")[0]]
            rows = table[model.config.num_prefix_tokens :].double().cpu()
            return _cosine(rows @ rows.T)
        relative = [m for m in model.modules() if isinstance(m, RelativePosition)]
        if relative:
            index = resolve_indices([layer], len(relative), "layers")[0]
            return _cosine(_products(relative[index].table.double().cpu()))
    raise ConfigError(
        f"This {type(model).__name__} has no position embeddings, so there is no "
        "similarity to show: a model with `position=none` and a ResNet have none, and "
        "rotary angles or a bias of each offset belong to pairs of patches."
    )


def _products(
    keys: Float[Tensor, "offsets dim"],
) -> Float[Tensor, "patches patches"]:
    """Return the sum over j of r(i - j) . r(k - j) for every i and k."""
    patches = (keys.shape[0] + 1) // 2
    gram = keys @ keys.T
    total = gram.new_zeros(patches, patches)
    for first in range(patches):
        total += gram[first : first + patches, first : first + patches]
    return total


def _cosine(
    products: Float[Tensor, "patches patches"],
) -> Float[Tensor, "patches patches"]:
    norm = products.diagonal().sqrt()
    # A row of zeros has no direction: its cosine with any row is 0.
    unit = norm.where(norm > 0, torch.inf)
    cosine = products / unit[:, None] / unit[None, :]
    return F.hardtanh(cosine)
