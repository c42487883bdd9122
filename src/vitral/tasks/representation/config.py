"""Settings of the objectives without labels; importing them imports no objective."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.layers.patch import patch_grid
from vitral.models import ModelConfig, ViTConfig
from vitral.models.vit import block_macs
from vitral.tasks.objective import ObjectiveConfig, saved_macs
from vitral.validation import at_least, one_of

LEVELS = 8
NUM_COLORS = LEVELS**3
SMALL_PATCH_SIDE = 4
"""Cells along a side of the 4 x 4 down-sized patch."""

PAPER_DIM, PAPER_DEPTH, PAPER_WIDTH = 512, 8, 768
"""The decoder of arXiv 2111.06377, and the width of the encoder that it is for."""
_HEAD = 32
"""Channels of a head of that decoder."""

Target = Literal["mean_colour", "small_patch", "pixels"]


@dataclass(frozen=True, kw_only=True)
class MAEConfig(ObjectiveConfig):
    """Masking, target and decoder sizes of a masked autoencoder."""

    NAME: ClassVar[str] = "mae"
    TASK: ClassVar[str] = "representation"
    MONITOR: ClassVar[str] = "loss"
    LABELS: ClassVar[bool] = False

    mask_ratio: float = 0.75
    """Share of the patches that are hidden, above 0 and below 1."""

    norm_pix_loss: bool = True
    """Predict each patch less its own mean, over its own deviation: better features
    than pixels give (table 1d), and pictures that need the truth to be drawn."""

    decoder_dim: int = 0
    """Width of the decoder's tokens; a multiple of 4 and of `decoder_heads`. 0: the
    paper's 512 from ViT-B on, else two thirds of the encoder's width."""

    decoder_depth: int = 0
    """Blocks of the decoder. 0: the paper's 8 from ViT-B on, else two thirds of the
    encoder's blocks."""

    decoder_heads: int = 0
    """Heads of each of its blocks. 0: one for each 32 channels, the paper's 16 of
    512."""

    def for_encoder(self, model: ModelConfig) -> "MAEConfig":
        """Return the settings with the sizes that the decoder of an encoder has.

        The paper's decoder is 26 million parameters. Beside ViT-B that is a third;
        beside an encoder of 0.8 million it would be 29 times its cost.
        """
        width, blocks = _encoder_size(model)
        heads = self.decoder_heads
        step = math.lcm(4, heads) if heads else _HEAD
        dim = self.decoder_dim or min(
            PAPER_DIM, max(step, round(2 / 3 * width / step) * step)
        )
        scaled = min(PAPER_DEPTH, max(1, round(2 / 3 * blocks)))
        depth = PAPER_DEPTH if width >= PAPER_WIDTH else scaled
        fitting = [n for n in range(1, max(1, dim // _HEAD) + 1) if dim % n == 0]
        return replace(
            self,
            decoder_dim=dim,
            decoder_depth=self.decoder_depth or depth,
            decoder_heads=heads or fitting[-1],
        )

    def resume_from(self, stored: ObjectiveConfig) -> ObjectiveConfig:
        """Return the settings with the stored decoder where they leave it open."""
        if not isinstance(stored, MAEConfig):
            return self
        sizes = ("decoder_dim", "decoder_depth", "decoder_heads")
        open_sizes = {
            name: getattr(stored, name) for name in sizes if not getattr(self, name)
        }
        return replace(self, **open_sizes)

    def count_macs(self, model: ModelConfig, size: tuple[int, int]) -> int:
        """Count the encoder on the visible patches, and the decoder on all."""
        if not isinstance(model, ViTConfig):
            return model.macs(size)
        grid = patch_grid(size, model.patch_hw)
        patches, visible = math.prod(grid), num_visible(grid, self.mask_ratio)
        sizes = self.for_encoder(model)
        decoder = sizes._decoder_macs(model, patches, visible + model.num_prefix_tokens)
        return model.macs(size) - saved_macs(model, patches, visible) + decoder

    def _decoder_macs(self, model: ViTConfig, patches: int, visible: int) -> int:
        """Count the decoder: input map, blocks on all patches, output map."""
        dim = self.decoder_dim
        tokens = patches + model.num_prefix_tokens
        blocks = self.decoder_depth * block_macs(tokens, dim, dim, 2 * dim * 4 * dim)
        pixels = math.prod(model.patch_hw) * model.in_chans
        return visible * model.embed_dim * dim + blocks + tokens * dim * pixels

    def shrink(self) -> "MAEConfig":
        """Return the settings with a small decoder."""
        return replace(self, decoder_dim=24, decoder_depth=1, decoder_heads=3)

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(
                f"`mask_ratio` must lie between 0 and 1: got {self.mask_ratio}. For "
                "features of whole images call the model itself."
            )
        at_least(
            0,
            decoder_dim=self.decoder_dim,
            decoder_depth=self.decoder_depth,
            decoder_heads=self.decoder_heads,
        )
        if self.decoder_dim % math.lcm(4, self.decoder_heads or 1):
            raise ConfigError(
                "`decoder_dim` must be a multiple of 4 and of `decoder_heads`: got "
                f"{self.decoder_dim} and {self.decoder_heads}."
            )


def _encoder_size(model: ModelConfig) -> tuple[int, int]:
    """Return width and blocks; of a model that cannot be the encoder those of ViT-B."""
    if isinstance(model, ViTConfig):
        return model.embed_dim, model.depth
    return PAPER_WIDTH, 12


def num_visible(grid: Grid, mask_ratio: float) -> int:
    """Return the number of visible patches, rounded down.

    Raises:
        ConfigError: it is 0.
    """
    visible = int(math.prod(grid) * (1 - mask_ratio))
    if visible < 1:
        raise ConfigError(
            f"`mask_ratio` of {mask_ratio} leaves no patch of {grid.rows} x "
            f"{grid.columns} visible: lower it, or use smaller patches."
        )
    return visible


@dataclass(frozen=True, kw_only=True)
class MaskedPatchConfig(ObjectiveConfig):
    """Corruption of the patches, and the prediction target."""

    NAME: ClassVar[str] = "masked_patch"
    TASK: ClassVar[str] = "representation"
    MONITOR: ClassVar[str] = "loss"
    LABELS: ClassVar[bool] = False

    target: Target = "mean_colour"
    """`mean_colour`: the patch's mean colour in 3 bits a channel, 512 classes.
    `small_patch`: the same for each of 4 x 4 parts. `pixels`: every value of the patch
    by squared error, which the paper found slightly worse."""

    corrupted: float = 0.5
    """Share of the patches, above 0 and at most 1; exactly so many of each image."""

    masked: float = 0.8
    """Share of the corrupted that become the [mask] embedding."""

    swapped: float = 0.1
    """Share of the corrupted that become another patch's embedding, of any image of
    the batch (our choice); the rest of them stays as it is."""

    def count_macs(self, model: ModelConfig, size: tuple[int, int]) -> int:
        """Count the encoder, and the prediction of the corrupted patches."""
        if not isinstance(model, ViTConfig):
            return model.macs(size)
        patches = math.prod(patch_grid(size, model.patch_hw))
        corrupted = max(round(self.corrupted * patches), 1)
        head = corrupted * model.embed_dim * num_outputs(self, model.patch_hw)
        return model.macs(size) + head

    def __post_init__(self) -> None:
        one_of(get_args(Target), target=self.target)
        if not 0 < self.corrupted <= 1:
            raise ConfigError(
                f"`corrupted` must be above 0 and at most 1: got {self.corrupted}."
            )
        if min(self.masked, self.swapped) < 0 or self.masked + self.swapped > 1 + 1e-9:
            raise ConfigError(
                "`masked` and `swapped` are shares of one whole: got "
                f"{self.masked} and {self.swapped}."
            )


def num_outputs(config: MaskedPatchConfig, patch_size: tuple[int, int]) -> int:
    """Return the number of outputs per corrupted patch."""
    if config.target == "pixels":
        return math.prod(patch_size) * 3
    return NUM_COLORS * (1 if config.target == "mean_colour" else SMALL_PATCH_SIDE**2)
