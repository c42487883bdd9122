"""Convert images to lists of patches and back; tokens are in raster order."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.models import ViT


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Images with their hidden patches predicted, in the value range of the input."""

    image: Float[Tensor, "batch channels height width"]
    hidden: Bool[Tensor, "batch rows columns"]


def to_patches(
    image: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch patches values"]:
    """Return the values of each patch: pixel row, pixel column, channel fastest."""
    cut = image.unflatten(3, (-1, size[1])).unflatten(2, (-1, size[0]))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(
    patches: Float[Tensor, "batch patches values"], grid: Grid, size: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """Invert `to_patches`."""
    cut = patches.unflatten(2, (*size, -1)).unflatten(1, tuple(grid))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def gather_rows(
    x: Float[Tensor, "batch rows dim"], index: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen dim"]:
    """Return the rows of each example in the order of its indices."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def require_all_patches(model: ViT) -> None:
    """Refuse a model that drops patches by itself.

    Raises:
        ConfigError: its `patch_drop_rate` is not 0.
    """
    rate = model.config.patch_drop_rate
    if rate:
        raise ConfigError(
            "The objective chooses itself which patches the model sees: set "
            f"`patch_drop_rate=0`, got {rate}."
        )
