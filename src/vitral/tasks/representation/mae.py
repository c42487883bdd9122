"""Masked autoencoder (arXiv 2111.06377): predict the pixels of masked patches.

The encoder is a plain ViT and sees a quarter of the patches. A narrow decoder gets its
output with a mask token in each gap and predicts pixels. The decoder belongs to the
objective; only the encoder is saved. Written from the formulas.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.models import IN_ATTENTION, ViT
from vitral.tasks.objective import (
    BatchLike,
    upcast_half,
)
from vitral.tasks.representation.config import MAEConfig as MAEConfig
from vitral.tasks.representation.config import num_visible as num_visible
from vitral.tasks.representation.draws import draw_key, uniform
from vitral.tasks.representation.mae_decoder import Decoder, reset_linears, sincos
from vitral.tasks.representation.patches import (
    Reconstruction,
    from_patches,
    gather_rows,
    require_all_patches,
    to_patches,
)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Visible patches, and the inverse permutation."""

    ids_keep: Int[Tensor, "batch visible"]
    """Raster indices of the visible patches, in the order in which they are encoded."""
    ids_restore: Int[Tensor, "batch patches"]
    """Index of each patch in [visible, hidden]."""
    hidden: Bool[Tensor, "batch patches"]


@dataclass(frozen=True, slots=True)
class MAEOutput:
    """Output of one masked forward pass."""

    loss: Float[Tensor, ""]
    prediction: Float[Tensor, "batch patches values"]
    """Pixels of each patch, or normalised ones with `norm_pix_loss`."""
    hidden: Bool[Tensor, "batch patches"]


class MAE(nn.Module):
    """A Vision Transformer with the decoder and the loss of a masked autoencoder."""

    def __init__(self, model: ViT, config: MAEConfig) -> None:
        super().__init__()
        _require_encoder(model)
        self.model = model
        self.config = config = config.for_encoder(model.config)
        template = next(model.blocks.parameters())
        decoder = Decoder(
            model.config,
            dim=config.decoder_dim,
            depth=config.decoder_depth,
            num_heads=config.decoder_heads,
        )
        self.decoder = decoder.to(template.device, template.dtype)

    def forward(
        self, batch: BatchLike, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of a batch, and the share of hidden patches.

        Args:
            generator: decides what is hidden; None for the step's randomness, and in
                eval mode for patches that are a function of the example alone.

        Raises:
            ConfigError: the images have too few patches, or another shape than the
                model takes.
        """
        key = draw_key(generator, self.training)
        grid = self._get_grid(batch.image)
        noise = uniform(batch.id, math.prod(grid), "mae", key)
        output = self.forward_masked(batch.image, noise.to(batch.image.device))
        return {"loss": output.loss, "hidden": output.hidden.float().mean()}

    def forward_masked(
        self,
        image: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch patches"],
    ) -> MAEOutput:
        """Hide the patches with the most noise, predict them, and compute the loss."""
        tokens = self.model.embed(image)
        grid = Grid(tokens.rows, tokens.columns)
        shuffle = shuffle_patches(noise, num_visible(grid, self.config.mask_ratio))
        seen = self.forward_encoder(tokens.x, grid, shuffle.ids_keep)
        prediction = self.decoder(seen, grid, shuffle.ids_restore)
        target = to_patches(image, self.model.config.patch_hw)
        if self.config.norm_pix_loss:
            mean, deviation = statistics(target)
            target = (target - mean) / deviation
        error = (upcast_half(prediction) - target).square().mean(dim=-1)
        share = shuffle.hidden.to(error.dtype)
        loss = (error * share).sum() / share.sum()
        return MAEOutput(loss, prediction, shuffle.hidden)

    def forward_encoder(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        ids_keep: Int[Tensor, "batch visible"],
    ) -> Float[Tensor, "batch seen dim"]:
        """Encode the prefix tokens and the visible patches.

        Args:
            x: every token, positions added.
        """
        prefix = self.model.config.num_prefix_tokens
        x = torch.cat([x[:, :prefix], gather_rows(x[:, prefix:], ids_keep)], dim=1)
        for block in self.model.blocks:
            x = block(x, grid)
        return self.model.norm(x)

    @torch.no_grad()
    def reconstruct(
        self,
        image: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch patches"],
    ) -> Reconstruction:
        """Return the images with their hidden patches predicted.

        With `norm_pix_loss` the model does not predict the mean and the contrast of a
        patch. Those of the hidden patch are used, so the image is better than the
        model's.
        """
        output = self.forward_masked(image, noise)
        size = self.model.config.patch_hw
        truth = to_patches(image, size)
        drawn = upcast_half(output.prediction).to(truth.dtype)
        if self.config.norm_pix_loss:
            mean, deviation = statistics(truth)
            drawn = drawn * deviation + mean
        patches = torch.where(output.hidden[:, :, None], drawn, truth)
        grid = self._get_grid(image)
        return Reconstruction(
            from_patches(patches, grid, size), output.hidden.unflatten(1, tuple(grid))
        )

    def _get_grid(self, image: Tensor) -> Grid:
        height, width = self.model.config.patch_hw
        return Grid(image.shape[-2] // height, image.shape[-1] // width)


def init_encoder(model: ViT) -> None:
    """Initialise an encoder as MAE does, with fixed positions.

    Linear maps get Xavier's uniform weights and no bias, the patch map as if it were
    linear, the class token a deviation of 0.02. The learned table becomes sines and
    cosines that are not trained. A model that continues from weights needs none of it.

    Raises:
        ConfigError: the model cannot be the encoder, or has no table of its own.
    """
    _require_encoder(model)
    fixed = model.config.position == "sincos_2d"
    if not fixed and (
        model.config.position != "learned_1d" or model.config.embed_dim % 4
    ):
        raise ConfigError(
            "MAE keeps its sines and cosines in the learned table: build the encoder "
            "with `position=learned_1d` and an `embed_dim` that is a multiple of 4, or "
            "with `position=sincos_2d`; got "
            f"`{model.config.position}` and {model.config.embed_dim}."
        )
    reset_linears(model.blocks)
    projection = model.patch_embed.get_submodule("proj")
    assert isinstance(projection, nn.Conv2d)
    with torch.no_grad():
        nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
        if model.config.class_token:
            nn.init.normal_(model.cls_token, std=0.02)
        if fixed:
            return
        prefix = model.config.num_prefix_positions
        table = sincos(model.config.grid, model.config.embed_dim, model.pos_embed)
        model.pos_embed.zero_()[:, prefix:] = table
    model.pos_embed.requires_grad_(False)


def shuffle_patches(noise: Float[Tensor, "batch patches"], visible: int) -> Shuffle:
    """Keep the `visible` patches with the least noise."""
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    return Shuffle(order[:, :visible], restore, restore >= visible)


def statistics(
    patches: Float[Tensor, "batch patches values"],
) -> tuple[Float[Tensor, "batch patches 1"], Float[Tensor, "batch patches 1"]]:
    """Return mean and deviation of each patch over its values (unbiased, + 1e-6)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def _require_encoder(model: nn.Module) -> None:
    """Refuse a model that cannot leave patches out."""
    if type(model) is not ViT:
        raise ConfigError(
            "A masked autoencoder's encoder is a plain Vision Transformer: got "
            f"{type(model).__name__}. Build one with `create('vit_b16', "
            "num_classes=0)`."
        )
    require_all_patches(model)
    config = model.config
    if config.position_at != "stem" or config.position in IN_ATTENTION:
        raise ConfigError(
            "The encoder leaves patches out after the stem, so positions must be "
            f"added there: set `position_at=stem`, got `{config.position_at}` with "
            f"`position={config.position}`."
        )
    if config.norm_after_pool:
        raise ConfigError(
            "The decoder takes tokens after the encoder's final norm: set "
            "`norm_after_pool=False`; fine-tuning may set it."
        )
    if math.prod(config.patch_hw) * config.in_chans < 2:
        raise ConfigError(
            "A patch of one value has nothing to be drawn: use larger patches."
        )
