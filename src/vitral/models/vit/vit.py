"""Vision Transformer (arXiv 2010.11929), in the order of its equations.

    z_0  = [cls; x_1 E; ...; x_N E] + E_pos          embed             (1)
    z'_l = MSA(LN(z_{l-1})) + z_{l-1}                layers.Block      (2)
    z_l  = MLP(LN(z'_l)) + z'_l                      layers.Block      (3)
    y    = LN(z_L), pooled                           forward_features  (4)

Parameter names are timm's. Pre-processing is in vitral.data.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import (
    AttentionPool,
    Block,
    Grid,
    PatchDropout,
    PatchEmbed,
    attention_mask,
    drop_path_rates,
    learned_2d,
    masked_mean,
    patch_grid,
    resize,
    sincos_2d,
)
from vitral.models.base import Family, VisionModel, require_input
from vitral.models.features import (
    Features,
    Images,
    PatchMask,
    Tokens,
    prefix_indices,
    scatter_to_grid,
    select_tokens,
)
from vitral.models.merging import forward_blocks_merging
from vitral.models.vit.build import (
    build_block,
    build_head,
    build_position_tables,
    build_pre_logits,
    norm_layer,
)
from vitral.models.vit.config import IN_ATTENTION, LEARNED_1D, UNADDED, ViTConfig
from vitral.models.vit.names import NAMES, name_for, parse_name


class ViT(VisionModel):
    """A Vision Transformer; `model(images)` gives logits.

    The position table belongs to `config.grid`. Images of another size, square or not,
    get the table resized by `config.position_resize` in the forward pass.
    """

    config: ViTConfig
    pos_embed: nn.Parameter
    pos_embed_x: nn.Parameter
    pos_embed_y: nn.Parameter

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed: nn.Module = self._build_stem(config)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.reg_tokens:
            self.reg_token = nn.Parameter(torch.empty(1, config.reg_tokens, dim))
            nn.init.normal_(self.reg_token, std=1e-6)
        for name, table in build_position_tables(config).items():
            self.register_parameter(name, table)
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.patch_drop = PatchDropout(config.patch_drop_rate)
        before = config.norm_pre
        self.norm_pre = nn.LayerNorm(dim, config.norm_eps) if before else nn.Identity()
        rates = drop_path_rates(config.drop_path_rate, config.depth)
        self.blocks = nn.ModuleList(self._build_block(config, rate) for rate in rates)
        pooled, after = config.pooled_dim, config.norm_after_pool
        norm = norm_layer(config)
        self.norm = nn.Identity() if after else norm(dim, config.norm_eps)
        if config.global_pool == "map":
            self.attn_pool = AttentionPool(
                dim,
                config.num_heads,
                config.mlp_dim,
                act=config.act,
                norm_eps=config.norm_eps,
            )
        self.fc_norm = norm(pooled, config.norm_eps) if after else nn.Identity()
        self.pre_logits = build_pre_logits(config)
        self.head: nn.Module = nn.Identity()
        self.reset_head(config.num_classes)

    def _build_stem(self, config: ViTConfig) -> nn.Module:
        return PatchEmbed(
            config.patch_hw,
            config.in_chans,
            config.embed_dim,
            norm_eps=config.norm_eps if config.patch_norm else None,
            bias=not config.norm_pre,
            rms_eps=config.norm_eps if config.norm == "rms" else None,
        )

    def _build_block(self, config: ViTConfig, drop_path: float) -> nn.Module:
        return build_block(config, drop_path)

    def reset_head(self, num_classes: int) -> None:
        self.head = build_head(self.config, num_classes, self.blocks)

    def positions(self, grid: Grid) -> Float[Tensor, "tables tokens dim"] | None:
        """Return the positions of the tokens on `grid`, prefix rows included, or None.

        One table, or one per block with `position_at=every_layer`.
        """
        config, prefix = self.config, self.config.num_prefix_tokens
        method = config.position_resize
        if config.position in UNADDED:
            return None
        if config.position in LEARNED_1D:
            prefix_rows = config.num_prefix_positions
            if grid.is_known and grid == config.grid and prefix_rows == prefix:
                return self.pos_embed
            rows = resize(self.pos_embed[:, prefix_rows:], config.grid, grid, method)
            if prefix_rows:
                padded = nn.functional.pad(
                    self.pos_embed[:, :prefix_rows], (0, 0, 0, prefix - prefix_rows)
                )
                return torch.cat([padded, rows], dim=1)
        elif config.position == "learned_2d":
            rows = learned_2d(self.pos_embed_x, self.pos_embed_y, grid, method)
        else:
            template = next(self.blocks.parameters())
            rows = sincos_2d(grid, config.embed_dim, template)[None]
        return nn.functional.pad(rows, (0, 0, prefix, 0))

    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Embed patches, prefix tokens and positions (equation 1)."""
        grid = self._get_grid(image)
        return self.build_sequence(self.patch_embed(image), grid, patch_mask)

    def _get_grid(self, image: Images) -> Grid:
        """Check the image, and return rows and columns of its patches."""
        require_input(self.config, image)
        return patch_grid((image.shape[-2], image.shape[-1]), self.config.patch_hw)

    def build_sequence(
        self,
        patches: Float[Tensor, "batch patches dim"],
        grid: Grid,
        patch_mask: PatchMask | None,
    ) -> Tokens:
        """Build the input of the first block, without patches dropped in training."""
        config = self.config
        prefix = [
            token.expand(patches.shape[0], -1, -1) for token in self._prefix_tokens()
        ]
        x = torch.cat([*prefix, patches], dim=1)
        takes_part = None
        if patch_mask is not None:
            if patch_mask.shape[1:] != tuple(grid):
                raise ConfigError(
                    f"`patch_mask` must have one value per patch, {grid.rows} x "
                    f"{grid.columns}: got {tuple(patch_mask.shape[1:])}."
                )
            takes_part = nn.functional.pad(
                patch_mask.flatten(1), (config.num_prefix_tokens, 0), value=True
            )
        positions = self.positions(grid)
        if positions is not None and config.position_at == "stem":
            x = x + positions
        tokens = Tokens(self.norm_pre(self.pos_drop(x)), *grid, takes_part)
        keep_indices = self.patch_drop(patches)
        if keep_indices is None:
            return tokens
        return select_tokens(tokens, keep_indices, config.num_prefix_tokens)

    def _prefix_tokens(self) -> list[Float[Tensor, "1 tokens dim"]]:
        """Return the tokens before the patches, in order."""
        tokens: list[Tensor] = [self.cls_token] if self.config.class_token else []
        return [*tokens, self.reg_token] if self.config.reg_tokens else tokens

    def forward_blocks(
        self, tokens: Tokens, first: int = 0, last: int | None = None
    ) -> Tokens:
        layers = range(self.config.depth)[first:last]
        tables = self._layer_positions(layers, tokens.grid)
        rates = self._merge_rates(tokens)
        if rates:
            blocks = [self.blocks[layer] for layer in layers]
            return forward_blocks_merging(tokens, blocks, rates[first:last], tables)
        x = tokens.x
        mask = None if tokens.mask is None else attention_mask(tokens.mask, x)
        rows: Tensor | slice = slice(None)
        if tokens.keep_indices is not None:
            rows = prefix_indices(tokens.keep_indices, self.config.num_prefix_tokens)
        for index, layer in enumerate(layers):
            if tables:
                x = x + tables[index][rows]
            x = self.blocks[layer](x, tokens.grid, mask)
        return tokens._replace(x=x)

    def _layer_positions(self, layers: range, grid: Grid) -> list[Tensor]:
        """Return the positions to add before each of `layers`; empty for none."""
        if self.config.position_at == "stem":
            return []
        positions = self.positions(grid)
        assert positions is not None
        return [positions[layer % len(positions)] for layer in layers]

    def _merge_rates(self, tokens: Tokens) -> tuple[int, ...]:
        """Return the tokens to merge in each block; empty for no merging."""
        off = (
            self.training
            or not self.config.merge_rate
            or tokens.keep_indices is not None
        )
        if off and tokens.merged is None:
            return ()
        return (0,) * self.config.depth if off else self.config.merge_rates

    def forward_norm(self, tokens: Tokens) -> Features:
        """Apply the final norm, and arrange tokens in the image's geometry (eq. 4)."""
        x, config = self.norm(tokens.x), self.config
        prefix = config.num_prefix_tokens
        cls = x[:, 0] if config.class_token else None
        return scatter_to_grid(x[:, prefix:], tokens, prefix)._replace(cls=cls)

    def forward_pool(self, features: Features) -> Float[Tensor, "batch dim"]:
        """Return the input of the head: pooled features, perhaps after a tanh layer.

        Registers never take part in pooling, nor do masked patches.
        """
        patches = features.patches.flatten(1, -2)
        mask = None if features.mask is None else features.mask.flatten(1)
        pool, cls = self.config.global_pool, features.cls
        if pool == "map":
            pooled = self.attn_pool(patches, mask)
        elif pool == "avg":
            pooled = masked_mean(patches, mask)
        else:
            assert cls is not None
            pooled = cls
            if pool == "token_avg":
                pooled = torch.cat([cls, masked_mean(patches, mask)], dim=1)
            elif pool == "avg_all":
                if mask is not None:
                    mask = nn.functional.pad(mask, (1, 0), value=True)
                pooled = masked_mean(torch.cat([cls[:, None], patches], dim=1), mask)
        return self.pre_logits(self.fc_norm(pooled))

    def forward_tokens(
        self, tokens: Tokens, first: int = 0
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits of the tokens that enter block `first`.

        The head of most models sees only the class token, so the last block computes
        that one row: the same logits for a twelfth less work.
        """
        if not self._needs_only_class_token(tokens, first):
            return super().forward_tokens(tokens, first)
        before = self.forward_blocks(tokens, first, self.config.depth - 1)
        cls = self._last_class_token(before)
        return self.head(self.pre_logits(self.fc_norm(cls)))

    def _last_class_token(self, tokens: Tokens) -> Float[Tensor, "batch dim"]:
        """Return the class token after the last block and the norm, and no other."""
        block = self.blocks[-1]
        assert isinstance(block, Block)
        return self.norm(block.forward_queries(tokens.x, 1, tokens.merged))[:, 0]

    def _needs_only_class_token(self, tokens: Tokens, first: int) -> bool:
        config = self.config
        return (
            config.global_pool == "token"
            and config.position not in IN_ATTENTION
            and config.position_at == "stem"
            and tokens.mask is None
            and first < config.depth
        )

    def layer_index(self, name: str) -> int:
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        stem = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")
        return 0 if name.startswith(stem) else self.config.depth + 1

    def train(self, mode: bool = True) -> "ViT":
        super().train(mode)
        if self.num_frozen_blocks is not None:
            # No dropout in frozen parts: their output then depends on the image alone
            # and can be cached.
            self.pos_drop.eval()
            self.patch_drop.eval()
            self.blocks[: self.num_frozen_blocks].eval()
        return self


FAMILY = Family(
    title="A Vision Transformer",
    source="2010.11929",
    config=ViTConfig,
    model=ViT,
    sizes=NAMES,
    size_fields=("embed_dim", "depth", "num_heads", "mlp_dim", "patch_hw"),
    parse_name=parse_name,
    name_for=name_for,
)
