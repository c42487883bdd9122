"""Settings of a Vision Transformer, and its named sizes.

Sizes: arXiv 2010.11929 table 1; Ti and S of 2106.10270; g and G of 2106.04560; mu, M,
So400m and e are those of the authors' later code.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from vitral.layers.merging import num_merged
from vitral.layers.mlp import Activation, MlpKind
from vitral.layers.patch import patch_grid
from vitral.layers.position import Grid, ResizeMethod
from vitral.models.base import ModelConfig, Size2d, require, to_2tuple

ROTARY = ("rotary", "rotary_index", "learned_rotary")
"""Positions that rotate queries and keys."""
IN_ATTENTION = ("relative", "relative_bias", *ROTARY)
"""Positions that change the logits of the attention."""
LEARNED_1D = ("learned_1d", "learned_rotary")
"""Positions with one row of a table for each patch."""
UNADDED = ("none", "relative", "relative_bias", "rotary", "rotary_index")
"""Positions that are added to no token."""
MergeSchedule = Literal["constant", "decreasing", "every_fourth"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """Settings of a Vision Transformer."""

    patch_size: Size2d = 16
    """Pixels, (height, width) or one number."""
    embed_dim: int = 768
    """Width of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Heads per block; must divide embed_dim unless head_dim is given."""
    head_dim: int = 0
    """Channels of a head; 0 for embed_dim / num_heads."""
    mlp_dim: int = 3072
    """Hidden width of a block's MLP."""
    mlp: MlpKind = "plain"
    """`plain` for two layers with GELU; `swiglu` for a gate (arXiv 2002.05202), whose
    first layer is twice as wide as mlp_dim."""
    mlp_norm: bool = False
    """LayerNorm inside a `swiglu`, before its last layer, as in EVA-02."""
    class_token: bool = True
    """Put a learned token before the patches."""
    reg_tokens: int = 0
    """Register tokens after the class token (arXiv 2309.16588); 0 for none."""
    global_pool: Literal["token", "avg", "map", "token_avg", "avg_all"] = "token"
    """Input of the head: class token, mean of the patches, attention pooling, the
    first two concatenated, or the mean of class token and patches."""
    position: Literal[
        "none",
        "learned_1d",
        "learned_2d",
        "relative",
        "relative_bias",
        "sincos_2d",
        "rotary",
        "rotary_index",
        "learned_rotary",
    ] = "learned_1d"
    """Type of position embedding (appendix D.4); `relative_bias` as BEiT
    (arXiv 2106.08254), `rotary` as DINOv3 (arXiv 2508.10104),
    `rotary_index` by EVA-02's angles, and `learned_rotary` with a `learned_1d` table as
    well, as EVA-02 (arXiv 2303.11331)."""
    position_at: Literal["stem", "every_layer", "every_layer_shared"] = "stem"
    """Place of an absolute position: once, before every block from a table of its own,
    or before every block from one table."""
    no_embed_class: bool = False
    """Give the class and register tokens no row in the learned 1-D table."""
    no_embed_reg: bool = False
    """Give the class token a row in that table, but the registers none."""
    position_resize: ResizeMethod = "official"
    """Resizing of the table for another grid at run time; `geometric` of a
    `relative_bias` only."""
    qkv_bias: bool = True
    """Bias of queries, keys and values."""
    k_bias: bool = True
    """False for a bias of queries and values alone, as in BEiT."""
    proj_bias: bool = True
    """Bias of the attention's output projection."""
    qk_norm: bool = False
    """LayerNorm on queries and keys (arXiv 2302.05442)."""
    init_values: float | None = None
    """LayerScale's first value (arXiv 2103.17239); None for no LayerScale."""
    act: Activation = "gelu_tanh"
    """`gelu_tanh` as the official code, `gelu` as timm's and Hugging Face's weights,
    `quick_gelu` as OpenAI's CLIP."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm."""
    norm: Literal["layer", "rms"] = "layer"
    """`rms` as AIMv2 (arXiv 2411.14402): RMSNorm for every LayerNorm, one on each
    embedded patch as well, and no biases in the gated perceptrons."""
    patch_norm: bool = False
    """LayerNorm on the pixels of each patch and on its embedding."""
    norm_pre: bool = False
    """LayerNorm on the tokens before the first block, and no bias in the patch
    embedding, as in CLIP (arXiv 2103.00020)."""
    norm_after_pool: bool = False
    """Pool first and normalise the pooled vector (timm's `fc_norm`)."""
    representation_size: int = 0
    """Width of the tanh layer before the head (section 3.1); 0 for none."""
    drop_rate: float = 0.0
    """Dropout at the four places of appendix B.1; 0 for none."""
    patch_drop_rate: float = 0.0
    """Share of the patches that each image loses in training, below 1, after positions
    are added (arXiv 2212.00794): cheaper steps; 0 for none."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last block, rising linearly from 0; 0 for none."""

    merge_rate: int = 0
    """Tokens merged in each block, at most half of its patches (arXiv 2210.09461): in
    evaluation, never in training; 0 for none. `vitral.models.set_merge` changes it."""
    merge_schedule: MergeSchedule = "constant"
    """The same number in each block, or `decreasing` linearly from twice that to none,
    or four times that in `every_fourth` block, from the second on, which looks for
    matches a quarter as often; the sum is the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        patch_grid(self.image_hw, self.patch_hw)
        require(
            self.head_dim > 0 or self.embed_dim % self.num_heads == 0,
            f"`embed_dim` must be a multiple of `num_heads`: got {self.embed_dim} and "
            f"{self.num_heads}.",
        )
        require(
            self.class_token or self.global_pool in ("avg", "map"),
            f"`global_pool={self.global_pool}` needs the class token: set "
            "`class_token=True`, or pool by `avg` or `map`.",
        )
        require(
            self.global_pool != "avg_all" or self.reg_tokens == 0,
            "`global_pool=avg_all` cannot be used with registers, which never take "
            f"part in pooling: set `reg_tokens=0`, got {self.reg_tokens}.",
        )
        parts = {"learned_2d": 2, "sincos_2d": 4}.get(self.position, 1)
        require(
            self.embed_dim % parts == 0,
            f"`position={self.position}` needs an `embed_dim` that is a multiple of "
            f"{parts}: got {self.embed_dim}.",
        )
        require(
            self.position_at == "stem" or self.position not in UNADDED,
            f"`position={self.position}` is not added to tokens, so `position_at` must "
            f"be `stem`: got `{self.position_at}`.",
        )
        for name in ("drop_rate", "drop_path_rate"):
            rate = getattr(self, name)
            require(0 <= rate <= 1, f"`{name}` must lie in [0, 1]: got {rate}.")
        require(
            self.merge_rate >= 0,
            "`merge_rate` must be at least 0, the tokens merged in each block: got "
            f"{self.merge_rate}.",
        )
        rate = self.patch_drop_rate
        require(0 <= rate < 1, f"`patch_drop_rate` must lie in [0, 1): got {rate}.")
        require(
            rate == 0 or self.position not in IN_ATTENTION,
            f"`patch_drop_rate` cannot be used with `position={self.position}`, whose "
            "scores "
            f"belong to the whole grid: set `patch_drop_rate=0`, got {rate}.",
        )
        if self.position in ROTARY:
            self._require_rotary()
        require(
            self.norm == "layer"
            or (
                self.mlp == "swiglu"
                and self.global_pool != "map"
                and not (self.patch_norm or self.norm_pre or self.mlp_norm)
                and not self.qk_norm
            ),
            "`norm=rms` is of AIMv2: set `mlp=swiglu`, leave `patch_norm`, `norm_pre`, "
            "`mlp_norm` and `qk_norm` False, and pool by other than `map`.",
        )
        require(
            not self.mlp_norm or self.mlp == "swiglu",
            "`mlp_norm` is of a gated perceptron: set `mlp=swiglu`, or "
            f"`mlp_norm=False`, got `mlp={self.mlp}`.",
        )
        require(
            self.position != "relative_bias"
            or (self.class_token and self.num_prefix_tokens == 1),
            "`position=relative_bias` has rows for one class token and no other token "
            "before the patches: set `class_token=True` and `reg_tokens=0` in a ViT.",
        )
        require(
            self.position_resize != "geometric" or self.position == "relative_bias",
            "`position_resize=geometric` resizes a table of offsets: set "
            f"`position=relative_bias`, got `{self.position}`.",
        )

    def _require_rotary(self) -> None:
        """Refuse what rotated queries and keys cannot be used with."""
        channels = self.attention_dim // self.num_heads
        require(
            channels % 4 == 0,
            f"`position={self.position}` needs heads whose channels are a multiple of "
            f"4: got {channels}.",
        )
        require(
            self.merge_rate == 0,
            f"`merge_rate` cannot be used with `position={self.position}`: a merged "
            "token has no position to be rotated by. Set `merge_rate=0`, got "
            f"{self.merge_rate}.",
        )

    @property
    def patch_hw(self) -> tuple[int, int]:
        return to_2tuple(self.patch_size)

    @property
    def grid(self) -> Grid:
        return patch_grid(self.image_hw, self.patch_hw)

    @property
    def attention_dim(self) -> int:
        """Total width of all heads."""
        return self.num_heads * (self.head_dim or self.embed_dim // self.num_heads)

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.class_token) + self.reg_tokens

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the learned 1-D table for the tokens before the patches."""
        if self.no_embed_class:
            return 0
        return self.num_prefix_tokens - (self.reg_tokens if self.no_embed_reg else 0)

    @property
    def num_blocks(self) -> int:
        return self.depth

    @property
    def pooled_dim(self) -> int:
        return self.embed_dim * (2 if self.global_pool == "token_avg" else 1)

    @property
    def merge_rates(self) -> tuple[int, ...]:
        """Tokens that each block merges, if it has twice as many patches."""
        rate, last = self.merge_rate, max(self.depth - 1, 1)
        if self.merge_schedule == "constant" or self.depth == 1:
            return (rate,) * self.depth
        if self.merge_schedule == "every_fourth":
            return tuple(4 * rate * (n % 4 == 1) for n in range(self.depth))
        # Block l merges 2 rate (1 - l / last). The sums are rounded, so none is lost.
        sums = [rate * n * (2 * last + 1 - n) // last for n in range(self.depth + 1)]
        return tuple(b - a for a, b in pairwise(sums))

    def macs(self, image_size: Size2d | None = None) -> int:
        """Return the multiply-accumulates of one image in evaluation, attention
        products and token merging included."""
        size = self.image_hw if image_size is None else to_2tuple(image_size)
        patches = left = math.prod(patch_grid(size, self.patch_hw))
        total = self._stem_macs(size) + self._head_macs(patches)
        for rate in self.merge_rates:
            before, count = left, num_merged(left, rate)
            left -= count
            tokens = before + self.num_prefix_tokens
            total += self._block_macs(tokens, count)
            if count:
                channels = self.attention_dim // self.num_heads
                pairs = (before // 2) * (before - before // 2)
                total += (tokens * self.embed_dim + pairs) * channels
        return total

    def _head_macs(self, num_patches: int) -> int:
        """Count pooling and the head."""
        dim, pool = self.embed_dim, 0
        if self.global_pool == "map":
            pool = 2 * num_patches * dim**2 + 2 * num_patches * dim
            pool += 2 * dim**2 + 2 * dim * self.mlp_dim
        hidden = self.representation_size or self.pooled_dim
        head = self.representation_size * self.pooled_dim + hidden * self.num_classes
        return pool + head

    def _block_macs(self, tokens: int, merged: int = 0) -> int:
        """Count one block on `tokens` tokens; `merged` of them skip the MLP."""
        inner, layers = self.attention_dim, 3 if self.mlp == "swiglu" else 2
        mlp = layers * self.embed_dim * self.mlp_dim
        attention = tokens * 4 * self.embed_dim * inner + 2 * tokens**2 * inner
        return attention + (tokens - merged) * mlp

    def _stem_macs(self, size: tuple[int, int]) -> int:
        """Count the patch embedding of an image of `size`."""
        num_patches = math.prod(patch_grid(size, self.patch_hw))
        pixels = math.prod(self.patch_hw) * self.in_chans
        return num_patches * pixels * self.embed_dim


SIZES: dict[str, dict[str, int]] = {
    name: {"depth": depth, "embed_dim": width, "mlp_dim": mlp, "num_heads": heads}
    for name, depth, width, mlp, heads in (
        ("mu", 1, 32, 128, 2),
        ("ti", 12, 192, 768, 3),
        ("s", 12, 384, 1536, 6),
        ("m", 12, 512, 2048, 8),
        ("b", 12, 768, 3072, 12),
        ("l", 24, 1024, 4096, 16),
        ("so400m", 27, 1152, 4304, 16),
        ("h", 32, 1280, 5120, 16),
        ("giant", 40, 1408, 6144, 16),
        ("gigantic", 48, 1664, 8192, 16),
        ("e", 56, 1792, 15360, 16),
    )
}
"""Depth, width, hidden width and heads of each named size."""

PATCH_SIZES = (8, 14, 16, 32)
"""Listed patch sizes; other names such as `vit_b10` work as well."""
