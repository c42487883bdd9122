"""Masked patch prediction (arXiv 2010.11929, section 4.6 and appendix B.1.2).

Half of the patch embeddings are corrupted before the positions are added, and the
encoder's output there predicts colours. The paper's code was not released: choices
that the text leaves open are marked as ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vitral.errors import ConfigError
from vitral.layers import patch_grid
from vitral.models import ViT
from vitral.models.base import require_input
from vitral.tasks.objective import BatchLike, upcast_half
from vitral.tasks.representation.config import (
    LEVELS,
    NUM_COLORS,
    SMALL_PATCH_SIDE,
)
from vitral.tasks.representation.config import MaskedPatchConfig as MaskedPatchConfig
from vitral.tasks.representation.config import num_outputs as num_outputs
from vitral.tasks.representation.draws import draw_key, uniform
from vitral.tasks.representation.patches import (
    Reconstruction,
    from_patches,
    gather_rows,
    require_all_patches,
    to_patches,
)

HALF = (0.5, 0.5, 0.5)


class Corruption(NamedTuple):
    """Corrupted patches of a batch, with the type of each corruption."""

    chosen: Int[Tensor, "batch corrupted"]
    """Raster indices of the corrupted patches."""
    masked: Bool[Tensor, "batch corrupted"]
    swapped: Bool[Tensor, "batch corrupted"]
    source: Int[Tensor, "batch corrupted"]
    """Index, among all patches of the batch, whose embedding a swapped patch gets."""


class MaskedPatch(nn.Module):
    """A Vision Transformer with a [mask] embedding and a linear map to colours.

    Args:
        mean: subtracted by the pre-processing, to recover colours in 0..1.
        std: divisor of the pre-processing.
    """

    def __init__(
        self,
        model: ViT,
        config: MaskedPatchConfig,
        mean: Sequence[float] = HALF,
        std: Sequence[float] = HALF,
    ) -> None:
        super().__init__()
        _require_model(model, config)
        if not all(0 < deviation < math.inf for deviation in std):
            raise ConfigError(
                f"`std` must be three positive numbers: got {std}. Take it and "
                "`mean` from the pre-processing."
            )
        self.model = model
        self.config = config
        self.mean, self.std = tuple(mean), tuple(std)
        template = next(model.blocks.parameters())
        dim = model.config.embed_dim
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).to(template))
        nn.init.normal_(self.mask_token, std=0.02)
        outputs = num_outputs(config, model.config.patch_hw)
        self.head = nn.Linear(dim, outputs).to(template.device, template.dtype)
        nn.init.zeros_(self.head.weight)  # every colour starts equal: ln 512
        nn.init.zeros_(self.head.bias)

    def forward(
        self, batch: BatchLike, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the mean loss over corrupted patches; also `accuracy` for classes.

        Args:
            generator: decides what is corrupted; None for the step's randomness, and
                in eval mode for patches that are a function of the example alone.

        Raises:
            ConfigError: the images have another shape than the model takes.
        """
        image = batch.image
        require_input(self.model.config, image)
        size = (image.shape[-2], image.shape[-1])
        patches = math.prod(patch_grid(size, self.model.config.patch_hw))
        key = draw_key(generator, self.training)
        corruption = draw_corruption(self.config, batch.id, patches, key)
        return self.forward_corrupted(
            image, Corruption(*(part.to(image.device) for part in corruption))
        )

    def forward_corrupted(
        self,
        image: Float[Tensor, "batch channels height width"],
        corruption: Corruption,
    ) -> dict[str, Tensor]:
        """Return the loss of `image` with these patches corrupted."""
        answers = self.predict(image, corruption)
        cells = to_patches(self._denormalize(image), self.model.config.patch_hw)
        target = gather_rows(cells, corruption.chosen)
        if self.config.target == "pixels":
            return {"loss": (answers - target).square().mean()}
        if self.config.target == "small_patch":
            target = downsample_patches(target, self.model.config.patch_hw).unflatten(
                2, (-1, 3)
            )
            answers = answers.unflatten(2, (-1, NUM_COLORS))
        else:
            target = target.unflatten(2, (-1, 3)).mean(dim=2)
        classes = color_class(target)
        loss = functional.cross_entropy(answers.flatten(0, -2), classes.flatten())
        correct = answers.detach().argmax(dim=-1) == classes
        return {"loss": loss, "accuracy": correct.float().mean()}

    def predict(
        self,
        image: Float[Tensor, "batch channels height width"],
        corruption: Corruption,
    ) -> Float[Tensor, "batch corrupted outputs"]:
        """Return the head's outputs for each corrupted patch."""
        config = self.model.config
        grid = patch_grid((image.shape[-2], image.shape[-1]), config.patch_hw)
        patches = self.model.patch_embed(image)
        tokens = self.model.build_sequence(
            self.corrupt(patches, corruption), grid, None
        )
        seen = self.model.forward_norm(
            self.model.forward_blocks(tokens)
        ).patches.flatten(1, 2)
        return upcast_half(self.head(gather_rows(seen, corruption.chosen)))

    def corrupt(
        self, patches: Float[Tensor, "batch patches dim"], corruption: Corruption
    ) -> Float[Tensor, "batch patches dim"]:
        """Replace embeddings, before positions are added."""
        current = gather_rows(patches, corruption.chosen)
        others = patches.flatten(0, 1)[corruption.source]
        new = torch.where(corruption.swapped[:, :, None], others, current)
        mask_token = self.mask_token.to(patches.dtype)
        new = torch.where(corruption.masked[:, :, None], mask_token, new)
        index = corruption.chosen[:, :, None].expand_as(new)
        return patches.scatter(1, index, new)

    @torch.no_grad()
    def reconstruct(
        self,
        image: Float[Tensor, "batch channels height width"],
        corruption: Corruption,
    ) -> Reconstruction:
        """Return the images with their corrupted patches in the predicted colours.

        A colour class is drawn as the middle of its eighths.
        """
        size = self.model.config.patch_hw
        grid = patch_grid((image.shape[-2], image.shape[-1]), size)
        answers = self.predict(image, corruption)
        if self.config.target != "pixels":
            answers = expand_colors(
                answers.unflatten(2, (-1, NUM_COLORS)).argmax(3), size
            )
        index = corruption.chosen
        truth = to_patches(self._denormalize(image), size)
        drawn = answers.to(truth.dtype)
        patches = truth.scatter(1, index[:, :, None].expand_as(drawn), drawn)
        hidden = torch.zeros_like(truth[:, :, 0], dtype=torch.bool)
        hidden = hidden.scatter(1, index, True)  # the value to write
        mean, std = self._mean_and_std(image)
        restored = (from_patches(patches, grid, size) - mean) / std
        return Reconstruction(restored, hidden.unflatten(1, tuple(grid)))

    def _denormalize(self, image: Tensor) -> Tensor:
        """Return the image before normalisation, 0..1."""
        mean, std = self._mean_and_std(image)
        return image * std + mean

    def _mean_and_std(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel, [3, 1, 1]."""
        mean, std = (
            image.new_tensor(values)[:, None, None] for values in (self.mean, self.std)
        )
        return mean, std


def draw_corruption(
    config: MaskedPatchConfig, ids: tuple[str, ...], patches: int, key: int
) -> Corruption:
    """Corrupt round(share · patches) of each image, without replacement (our choice).

    The type is drawn for each patch, so 80, 10 and 10 % hold on average.
    """
    corrupted = max(round(config.corrupted * patches), 1)
    chosen = uniform(ids, patches, "corrupted", key).argsort(dim=1)[:, :corrupted]
    fate = uniform(ids, corrupted, "fate", key)
    index = torch.arange(len(ids))[:, None] * patches + chosen
    # One of all others: indices from the patch's own on are shifted by one.
    others = len(ids) * patches - 1
    source = (uniform(ids, corrupted, "source", key) * others).long()
    source = (source + (source >= index)).clamp(max=others)
    return Corruption(
        chosen=chosen,
        masked=fate < config.masked,
        swapped=(fate >= config.masked) & (fate < config.masked + config.swapped),
        source=source,
    )


def color_class(color: Float[Tensor, "*places 3"]) -> Int[Tensor, "*places"]:
    """Return 64·red + 8·green + blue, each an eighth of 0..1 (our choice)."""
    red, green, blue = (color * LEVELS).floor().clamp(0, LEVELS - 1).long().unbind(-1)
    return (red * LEVELS + green) * LEVELS + blue


def expand_colors(
    classes: Int[Tensor, "batch patches cells"], size: tuple[int, int]
) -> Float[Tensor, "batch patches values"]:
    """Return patches of `size` in the colours of their cells: one, or 4 x 4 of them."""
    parts = (classes // LEVELS**2, classes // LEVELS % LEVELS, classes % LEVELS)
    colors = (torch.stack(parts, dim=-1) + 0.5) / LEVELS
    side = round(math.sqrt(classes.shape[2]))
    rows, columns = (
        torch.arange(pixels, device=classes.device) * side // pixels for pixels in size
    )
    cell = (rows[:, None] * side + columns).flatten()
    return colors[:, :, cell].flatten(2)


def downsample_patches(
    patches: Float[Tensor, "batch patches values"], size: tuple[int, int]
) -> Float[Tensor, "batch patches small"]:
    """Return RGB patches of `size` as 4 x 4 means, in the same order of values.

    Where a side is not a multiple of 4, cells overlap by a pixel.
    """
    pixels = patches.flatten(0, 1).unflatten(1, (*size, 3)).permute(0, 3, 1, 2)
    small = functional.adaptive_avg_pool2d(pixels, SMALL_PATCH_SIDE).permute(0, 2, 3, 1)
    return small.flatten(1).unflatten(0, patches.shape[:2])


def _require_model(model: nn.Module, config: MaskedPatchConfig) -> None:
    """Refuse a model without patches of pixels in three colours."""
    if type(model) is not ViT:
        raise ConfigError(
            "Masked patch prediction takes a plain Vision Transformer: got "
            f"{type(model).__name__}. Build one with `create('vit_b16', "
            "num_classes=0)`."
        )
    require_all_patches(model)
    if model.config.in_chans != 3:
        raise ConfigError(
            "Masked patch prediction is about red, green and blue: got a model of "
            f"{model.config.in_chans} channels; build it with `in_chans=3`."
        )
    if config.target == "small_patch" and min(model.config.patch_hw) < SMALL_PATCH_SIDE:
        raise ConfigError(
            f"`target=small_patch` needs patches of {SMALL_PATCH_SIDE} x "
            f"{SMALL_PATCH_SIDE} pixels or more: "
            f"got {model.config.patch_hw}. Use `target=mean_colour`."
        )
