"""Transformer in Transformer (arXiv 2103.00112): an inner Transformer in every patch.

Sub-patches are the words of a patch. In each block the words of a patch attend to each
other, are folded into the patch's token, and the patch tokens attend as in a Vision
Transformer:

    Y_l = inner(Y_{l-1})                        words of one patch
    Z   = Z_{l-1} + LN(W LN(vec(Y_l)))          the class token gets nothing
    Z_l = outer(Z)                              class token and patches

Every patch is convolved separately, with zero padding, so only patch tokens exchange
information. The words of the last block are discarded. Parameter names are native;
vitral.weights maps timm's and Huawei's.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.layers import Block, Grid, attention_mask
from vitral.models.base import Family
from vitral.models.features import Images, PatchMask, Tokens
from vitral.models.tnt.config import NAMES, TNTConfig, name_for, parse_name
from vitral.models.vit import ViT, ViTConfig, build_block


class TNT(ViT):
    """A Transformer in Transformer; `model(images)` gives logits.

    The position table of the patches is resized for images of another size, as a
    Vision Transformer's; the words of a patch always have the same positions.
    """

    config: TNTConfig

    def __init__(self, config: TNTConfig) -> None:
        super().__init__(config)
        head = set(self.head.modules()) | set(self.pre_logits.modules())
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in head:
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.class_token:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def _build_stem(self, config: ViTConfig) -> nn.Module:
        assert isinstance(config, TNTConfig)
        return WordEmbed(config)

    def _build_block(self, config: ViTConfig, drop_path: float) -> nn.Module:
        assert isinstance(config, TNTConfig)
        return TNTBlock(config, drop_path)

    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Embed words, patches made of them, prefix tokens and positions."""
        grid = self._get_grid(image)
        assert isinstance(self.patch_embed, WordEmbed)
        words = self.patch_embed.words(image)
        tokens = self.build_sequence(self.patch_embed.fold(words), grid, patch_mask)
        return tokens._replace(words=words)

    def forward_blocks(
        self, tokens: Tokens, first: int = 0, last: int | None = None
    ) -> Tokens:
        x, words = tokens.x, tokens.words
        assert words is not None
        mask = None if tokens.mask is None else attention_mask(tokens.mask, x)
        layers = range(self.config.depth)[first:last]
        tables = self._layer_positions(layers, tokens.grid)
        for index, layer in enumerate(layers):
            if tables:
                x = x + tables[index]
            x, words = self.blocks[layer](x, words, tokens.grid, mask)
        return tokens._replace(x=x, words=words)

    def _needs_only_class_token(self, tokens: Tokens, first: int) -> bool:
        # The last block computes all rows: its words are most of the work anyway.
        return False


class Fold(nn.Module):
    """Map the concatenated words of a patch to one vector: norm, matrix, norm."""

    def __init__(self, config: TNTConfig, *, bias: bool) -> None:
        super().__init__()
        words = math.prod(config.word_grid) * config.inner_dim
        self.norm1 = nn.LayerNorm(words, eps=config.norm_eps)
        self.proj = nn.Linear(words, config.embed_dim, bias=bias)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def forward(
        self, words: Float[Tensor, "batch patches words inner"]
    ) -> Float[Tensor, "batch patches dim"]:
        return self.norm2(self.proj(self.norm1(words.flatten(2))))


class WordEmbed(nn.Module):
    """Words of each patch, and the fold that makes the first patch tokens."""

    def __init__(self, config: TNTConfig) -> None:
        super().__init__()
        self.patch_hw = config.patch_hw
        self.proj = nn.Conv2d(
            config.in_chans,
            config.inner_dim,
            config.word_kernel,
            stride=config.word_hw,
            padding=config.word_kernel // 2,
        )
        num_words = math.prod(config.word_grid)
        self.word_pos = nn.Parameter(torch.empty(1, num_words, config.inner_dim))
        nn.init.trunc_normal_(self.word_pos, std=0.02)
        self.fold = Fold(config, bias=True)

    def words(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches words inner"]:
        """Cut patches apart, then convolve, so that none sees across its border."""
        height, width = self.patch_hw
        image = image.to(self.proj.weight.dtype)
        cut = image.unflatten(2, (-1, height)).unflatten(4, (-1, width))
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        words = self.proj(patches.flatten(0, 1)).flatten(2).transpose(1, 2)
        return (words + self.word_pos).unflatten(0, patches.shape[:2])


class TNTBlock(nn.Module):
    """Inner block on the words of each patch, fold, outer block on the tokens."""

    def __init__(self, config: TNTConfig, drop_path: float) -> None:
        super().__init__()
        self.num_prefix_tokens = config.num_prefix_tokens
        self.word_grid = config.word_grid
        self.inner: Block = build_block(config.inner, drop_path)
        self.fold = Fold(config, bias=False)
        self.outer: Block = build_block(config, drop_path)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        words: Float[Tensor, "batch patches words inner"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch tokens dim"], Float[Tensor, "batch patches words inner"]
    ]:
        shape = words.shape[:2]
        words = self.inner(words.flatten(0, 1), self.word_grid).unflatten(0, shape)
        prefix = self.num_prefix_tokens
        x = torch.cat([x[:, :prefix], x[:, prefix:] + self.fold(words)], dim=1)
        return self.outer(x, grid, mask), words


FAMILY = Family(
    title="A TNT",
    source="2103.00112",
    config=TNTConfig,
    model=TNT,
    sizes=NAMES,
    size_fields=(
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_dim",
        "patch_hw",
        "inner_dim",
        "inner_num_heads",
        "inner_mlp_dim",
        "word_hw",
    ),
    parse_name=parse_name,
    name_for=name_for,
)
