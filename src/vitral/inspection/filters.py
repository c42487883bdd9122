"""Principal components of the filters of the first layer.

arXiv 2010.11929, section 4.5 and figure 7 (left), which shows 28 of ViT-L/32. Each
filter is one example and its pixels are the features.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.inspection.pca_colors import fit_pca
from vitral.layers.conv import StdConv2d, standardize
from vitral.models import VisionModel


class FilterComponents(NamedTuple):
    """Principal components of the filters, the strongest first."""

    components: Float[Tensor, "n height width channels"]
    """Orthonormal; the largest entry of each is positive, as a sign means nothing."""
    explained_variance_ratio: Float[Tensor, " n"]
    """Share of the filters' variance of each component."""


def embedding_filters(
    model: VisionModel, n: int = 28
) -> Float[Tensor, "n height width channels"]:
    """Return the first `n` components as pictures from 0 to 1, float64, on the CPU.

    Raises:
        ConfigError: `n` is below 1, or there are fewer components.
    """
    components = filter_components(model, n).components
    low = components.amin(dim=(1, 2, 3), keepdim=True)
    span = components.amax(dim=(1, 2, 3), keepdim=True) - low
    return (components - low) / span.where(span > 0, 1.0)


def filter_components(model: VisionModel, n: int = 28) -> FilterComponents:
    """Return the first `n` principal components of the first layer's filters.

    The layer is a Vision Transformer's patch embedding, or the 7 x 7 convolution of a
    hybrid or a ResNet, standardised as in the forward pass.

    Raises:
        ConfigError: `n` is below 1, or there are fewer components.
    """
    filters = _filters(model).movedim(1, -1)
    rows = filters.flatten(1)
    most = min(rows.shape[0] - 1, rows.shape[1])
    if not 1 <= n <= most:
        height, width = filters.shape[1:3]
        raise ConfigError(
            f"`n` must lie between 1 and {most}, because the first layer has "
            f"{filters.shape[0]} filters of {height} x {width} pixels: got {n}."
        )
    pca = fit_pca(rows, n)
    return FilterComponents(
        pca.components.unflatten(1, filters.shape[1:]), pca.explained_variance_ratio
    )


def _filters(model: VisionModel) -> Float[Tensor, "filters channels height width"]:
    for module in model.modules():
        if isinstance(module, StdConv2d):
            numerics = module.numerics
            weight = module.weight.detach().double().cpu()
            return standardize(weight, numerics.std_eps, numerics.std_eps_at)
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().double().cpu()
    raise AssertionError(f"{type(model).__name__} has no convolution at its start")
