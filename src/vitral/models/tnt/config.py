"""Settings of a TNT, and its named sizes (arXiv 2103.00112)."""

import math
import re
from dataclasses import dataclass
from typing import Any

from vitral.errors import ConfigError
from vitral.layers import Activation, Grid
from vitral.models.base import Size2d, find_size, require, require_off, to_2tuple
from vitral.models.bounds import check_bounds
from vitral.models.vit import ViTConfig


@dataclass(frozen=True, kw_only=True)
class TNTConfig(ViTConfig):
    """Settings of a TNT.

    Settings of a Vision Transformer are those of the patches. Settings of blocks other
    than sizes (biases, norms, activation, dropout) hold for the words' blocks too.
    """

    embed_dim: int = 384
    """Width of a patch's token."""
    num_heads: int = 6
    """Heads of an outer block; must divide embed_dim unless head_dim is given."""
    mlp_dim: int = 1536
    """Hidden width of an outer block's MLP."""
    word_size: Size2d = 4
    """Pixels from one word to the next, (height, width) or one number; must divide
    patch_size."""
    word_kernel: int = 7
    """Side in pixels of a word's convolution, odd; words overlap by it."""
    inner_dim: int = 24
    """Width of a word."""
    inner_num_heads: int = 4
    """Heads of an inner block; must divide inner_dim."""
    inner_mlp_dim: int = 96
    """Hidden width of an inner block's MLP."""
    qkv_bias: bool = False
    """Bias of queries, keys and values."""
    act: Activation = "gelu"
    """The exact GELU, as in the paper's code."""
    norm_eps: float = 1e-5
    """Epsilon of every LayerNorm; torch's own, as in the paper's code."""

    def __post_init__(self) -> None:
        check_bounds(self)
        for pixels, word in zip(self.patch_hw, self.word_hw, strict=True):
            require(
                0 < word <= pixels and pixels % word == 0,
                "`patch_size` must be a multiple of `word_size`: got "
                f"{self.patch_size} and {self.word_size}.",
            )
        require(
            self.word_kernel % 2 == 1 and self.word_kernel >= 2 * max(self.word_hw) - 1,
            "`word_kernel` must be odd and at least 2 * `word_size` - 1, or pixels at "
            "the lower and right border of a patch would be seen by no word: got "
            f"{self.word_kernel} and {self.word_size}.",
        )
        require(
            self.inner_dim % self.inner_num_heads == 0,
            "`inner_dim` must be a multiple of `inner_num_heads`: got "
            f"{self.inner_dim} and {self.inner_num_heads}.",
        )
        require(
            not self.norm_pre,
            "`norm_pre` is of CLIP's tower alone, and a TNT's words have norms of "
            "their own: leave it False.",
        )
        require(
            not self.patch_norm,
            "`patch_norm` normalises the pixels of a patch, and a TNT makes words of "
            "them first, which it normalises anyway: leave it False.",
        )
        require(
            self.k_bias and not self.mlp_norm and self.norm == "layer",
            "`k_bias=False`, `mlp_norm` and `norm=rms` are of BEiT, EVA-02 and AIMv2, "
            "and a TNT's words have none of them: leave them out.",
        )
        words = "a TNT, whose words of every patch"
        require_off(
            self,
            patch_drop_rate=f"{words} are computed anyway",
            merge_rate=f"{words} feed the patch's own token",
        )
        super().__post_init__()

    @property
    def word_hw(self) -> tuple[int, int]:
        return to_2tuple(self.word_size)

    @property
    def word_grid(self) -> Grid:
        """Rows and columns of the words of a patch."""
        (height, width), (down, along) = self.patch_hw, self.word_hw
        return Grid(height // down, width // along)

    @property
    def inner(self) -> ViTConfig:
        """Settings of the words' blocks, as a Vision Transformer on a patch's words."""
        return ViTConfig(
            image_size=self.patch_hw,
            patch_size=self.word_hw,
            in_chans=self.in_chans,
            num_classes=0,
            embed_dim=self.inner_dim,
            depth=self.depth,
            num_heads=self.inner_num_heads,
            mlp_dim=self.inner_mlp_dim,
            mlp=self.mlp,
            class_token=False,
            global_pool="avg",
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            qk_norm=self.qk_norm,
            init_values=self.init_values,
            act=self.act,
            norm_eps=self.norm_eps,
            drop_rate=self.drop_rate,
        )

    def _stem_macs(self, size: tuple[int, int]) -> int:
        num_patches = math.prod(size) // math.prod(self.patch_hw)
        words = num_patches * math.prod(self.word_grid)
        convolution = words * self.word_kernel**2 * self.in_chans * self.inner_dim
        return convolution + words * self.inner_dim * self.embed_dim

    def _block_macs(self, tokens: int, merged: int = 0) -> int:
        num_patches, words = tokens - self.num_prefix_tokens, math.prod(self.word_grid)
        inside = self.inner._block_macs(words) + words * self.inner_dim * self.embed_dim
        return num_patches * inside + super()._block_macs(tokens, merged)


SIZES: dict[str, dict[str, int]] = {
    name: {
        "depth": 12,
        "embed_dim": width,
        "mlp_dim": 4 * width,
        "num_heads": width // 64,
        "inner_dim": inner,
        "inner_mlp_dim": 4 * inner,
        "inner_num_heads": inner_heads,
    }
    for name, width, inner, inner_heads in (
        ("ti", 192, 12, 2),
        ("s", 384, 24, 4),
        ("b", 640, 40, 4),
    )
}
"""Table 1 of the paper; its code gives no heads of Ti, these follow from its width."""

NAME_PATTERN = re.compile(rf"tnt_({'|'.join(SIZES)})(\d+)")
TIMM = re.compile(r"tnt_(s|b)_patch16_224(?:\.\w+)?")
LEGACY = re.compile(r"tnt_\w_legacy_\w+(?:\.\w+)?")
LEGACY_DIFFERENCE = (
    "convolves the whole image before it is cut into patches, normalises each word by "
    "itself, and folds with a bias and without a second norm"
)
"""Differences of timm's legacy port from the paper's function."""


def settings(size: str, patch: int) -> dict[str, Any]:
    """Return the settings of the name tnt_<size><patch>: 4 x 4 words, as published.

    The kernel grows with the words, 7 pixels for words of 4: the smallest with which
    the last word of a row sees the patch's last pixel.
    """
    word = max(patch // 4, 1)
    return {
        **SIZES[size],
        "patch_size": patch,
        "word_size": word,
        "word_kernel": 2 * word - 1,
        "image_size": max(224 // patch, 1) * patch,
    }


NAMES = {f"tnt_{size}16": settings(size, 16) for size in SIZES}
"""The three published sizes."""


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of another native patch size, or of a name of timm.

    Raises:
        ConfigError: it is the name of timm's legacy port.
    """
    if match := NAME_PATTERN.fullmatch(name):
        return settings(match[1], int(match[2]))
    if match := TIMM.fullmatch(name):
        ours = NAMES[f"tnt_{match[1]}16"]
        return {**ours, "position_resize": "bicubic_antialias"}
    if LEGACY.fullmatch(name):
        raise ConfigError(
            f"timm's `{name}` is another function than the paper's: it "
            f"{LEGACY_DIFFERENCE}. Take `tnt_s_patch16_224`, or ours, `tnt_s16`."
        )
    return None


def name_for(config: TNTConfig) -> str:
    """Return the native name of a model's size and patch; empty if it has none."""
    size, (rows, columns) = find_size(config, SIZES), config.patch_hw
    named = size and rows == columns and config.word_grid == (4, 4)
    return f"tnt_{size}{rows}" if named else ""
