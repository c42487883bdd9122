"""TimeSformer (arXiv 2102.05095): a Vision Transformer on the frames of a clip.

    x = x + fc(attention(norm(x)))    each step but the last: along time, or local
    x = x + attention(norm1(x))       the last step: in space, or its type's last
    x = x + mlp(norm2(x))

A clip is [batch, frames, channels, height, width]. Each group of tokens has a copy of
the class token, which moves by the mean of the copies' updates. With `space` every
frame has a class token, and their mean is taken before the final norm.

The paper leaves the following open for `local_global` and `axial`. Local means the rows
and columns up to a quarter of their number away, cut at the border, in all frames. The
coarse grid is every second frame, row and column from the first on. All tokens of a
step see its class token, which sees all in the local step and the coarse grid in the
other. Parameter names are those of the released code where it has the type.
"""

import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import (
    Attention,
    ClipAttention,
    DropPath,
    Extent,
    Grid,
    LocalAttention,
    StridedAttention,
    group_tokens,
    resize_time,
)
from vitral.layers.space_time_attention import GROUP_AXES, Along, clip_extent
from vitral.models.base import Family
from vitral.models.features import Features, Images, PatchMask, Tokens
from vitral.models.timesformer.config import (
    NAMES,
    SpaceTimeStep,
    TimeSformerConfig,
)
from vitral.models.timesformer.tokens import TokenIndices, token_indices
from vitral.models.vit import ViT, ViTConfig, attention_settings, build_block


class TimeSformer(ViT):
    """A Vision Transformer for clips; `model(clips)` gives logits.

    The tables of positions belong to `config.grid` and `config.num_frames`; clips of
    other sizes get them resized in the forward pass.
    """

    config: TimeSformerConfig

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__(config)
        if config.has_time_positions:
            shape = (1, config.num_frames, config.embed_dim)
            self.time_embed = nn.Parameter(torch.zeros(shape))

    def _build_block(self, config: ViTConfig, drop_path: float) -> nn.Module:
        assert isinstance(config, TimeSformerConfig)
        if config.attention_type == "joint":
            return build_block(config, drop_path)
        return ClipBlock(config, drop_path)

    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Embed patches of every frame, prefix tokens, positions in space and time.

        Raises:
            ConfigError: `image` is no batch of clips of this model's channels, or
                `patch_mask` was given.
        """
        if patch_mask is not None:
            raise ConfigError(
                "`patch_mask` cannot be used with clips: it has no frames. Crop the "
                "clips."
            )
        grid, (batch, frames) = self._get_grid(image), image.shape[:2]
        patches = self.patch_embed(image.flatten(0, 1)).unflatten(0, (batch, frames))
        before = self.config.num_prefix_tokens
        empty = patches.new_zeros(1, 0, self.config.embed_dim)
        prefix = torch.cat([empty, *self._prefix_tokens()], dim=1)
        positions = self.positions(grid)
        if positions is not None:
            prefix = prefix + positions[:, :before]
            patches = patches + positions[:, None, before:]
        if self.config.has_time_positions:
            method = self.config.time_resize
            patches = patches + resize_time(self.time_embed, frames, method)[:, :, None]
        if self.config.attention_type == "space":
            copies = prefix[:, None].expand(batch, frames, -1, -1)
            x = torch.cat([copies, patches], dim=2).flatten(1, 2)
        else:
            x = torch.cat([prefix.expand(batch, -1, -1), patches.flatten(1, 2)], dim=1)
        return Tokens(self.pos_drop(x), *grid)

    def forward_norm(self, tokens: Tokens) -> Features:
        """Apply the final norm; patches [batch, frames, rows, columns, dim]."""
        before, shape = self.config.num_prefix_tokens, (-1, tokens.rows, tokens.columns)
        x, cls = tokens.x, None
        if self.config.attention_type == "space":
            x = x.unflatten(1, (-1, before + tokens.rows * tokens.columns))
            patches = self.norm(x[:, :, before:]).flatten(1, 2)
            if self.config.class_token:
                cls = self.norm(x[:, :, 0].mean(dim=1))
        else:
            x = self.norm(x)
            patches = x[:, before:]
            if self.config.class_token:
                cls = x[:, 0]
        return Features(cls=cls, patches=patches.unflatten(1, shape))

    def _last_class_token(self, tokens: Tokens) -> Float[Tensor, "batch dim"]:
        block = self.blocks[-1]
        if not isinstance(block, ClipBlock):
            return super()._last_class_token(tokens)
        return self.norm(block.forward_prefix(tokens.x, tokens.grid)[:, 0])

    def token_indices(self, tokens: Tokens) -> TokenIndices:
        """Return the indices of class tokens and patches, and their groups."""
        before, patches = self.config.num_prefix_tokens, tokens.rows * tokens.columns
        length = tokens.x.shape[1]
        if self.config.attention_type == "space":
            frames = length // (before + patches)
        else:
            frames = (length - before) // patches
        return token_indices(self.config, Extent(frames, tokens.rows, tokens.columns))

    def layer_index(self, name: str) -> int:
        return 0 if name == "time_embed" else super().layer_index(name)


class ClipBlock(nn.Module):
    """Attention steps of a type, then the MLP, each with its residual."""

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_prefix_tokens = config.num_prefix_tokens
        self.attention_type = config.attention_type
        self.steps = config.steps
        self.prefix_in = {
            step.name: config.num_step_prefix_tokens(step) for step in config.steps
        }
        for step in config.steps[:-1]:
            fc = nn.Linear(dim, dim)
            nn.init.zeros_(fc.weight)
            nn.init.zeros_(fc.bias)
            norm = nn.LayerNorm(dim, config.norm_eps)
            self.add_module(f"{step.name}_norm1", norm)
            self.add_module(f"{step.name}_attn", _build_attention(config, step))
            self.add_module(f"{step.name}_fc", fc)
            self.add_module(f"{step.name}_drop_path", DropPath(drop_path))
        block = build_block(config, drop_path)
        self.norm1, self.ls1, self.drop_path1 = block.norm1, block.ls1, block.drop_path1
        self.attn = _build_attention(config, config.steps[-1])
        self.norm2, self.ls2, self.drop_path2 = block.norm2, block.ls2, block.drop_path2
        self.mlp = block.mlp

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        assert mask is None
        if self.attention_type == "space":
            frames = self._frames(x, grid)
            attended = self.attn(self.norm1(frames), grid).reshape(x.shape)
        else:
            x = self._first_steps(x, grid)
            attended = self._attend(self.steps[-1], x, grid)
        return self._last_residuals(x, attended)

    def forward_prefix(
        self, x: Float[Tensor, "batch tokens dim"], grid: Grid
    ) -> Float[Tensor, "batch prefix dim"]:
        """Compute the prefix tokens only, for the last block of a class-token model.

        Returns the mean over frames where each frame has its own prefix tokens.
        """
        before = self.num_prefix_tokens
        if self.attention_type == "space":
            frames = self._frames(x, grid)
            attended = self.attn.forward_queries(self.norm1(frames), before)
            # One row per clip, because stochastic depth drops whole rows.
            shape = (x.shape[0], -1, x.shape[-1])
            first = frames[:, :before].reshape(shape)
            tokens = self._last_residuals(first, attended.reshape(shape))
            return tokens.unflatten(1, (-1, before)).mean(dim=1)
        x = self._first_steps(x, grid)
        normed, step = self.norm1(x), self.steps[-1]
        if isinstance(self.attn, StridedAttention):
            attended = self.attn.prefix_only(normed, grid)
        else:
            groups = group_tokens(
                normed, before, clip_extent(x, grid, before), _step_axis(step)
            )
            attended = groups.prefix(self.attn.forward_queries(groups.x, before))
        return self._last_residuals(x[:, :before], attended)

    def _first_steps(self, x: Tensor, grid: Grid) -> Float[Tensor, "batch tokens dim"]:
        """Apply the steps before the last, each with its residual."""
        before = self.num_prefix_tokens
        for step in self.steps[:-1]:
            skipped = before - self.prefix_in[step.name]
            attended = self._attend(step, x[:, skipped:], grid)
            fc = self.get_submodule(f"{step.name}_fc")
            drop_path = self.get_submodule(f"{step.name}_drop_path")
            moved = x[:, skipped:] + drop_path(fc(attended))
            x = torch.cat([x[:, :skipped], moved], dim=1) if skipped else moved
        return x

    def _attend(
        self, step: SpaceTimeStep, x: Float[Tensor, "batch tokens dim"], grid: Grid
    ) -> Float[Tensor, "batch tokens dim"]:
        """Apply a step's norm and attention to the tokens that take part in it."""
        within = f"{step.name}_" if step.name else ""
        attention = self.get_submodule(f"{within}attn")
        normed, before = (
            self.get_submodule(f"{within}norm1")(x),
            self.prefix_in[step.name],
        )
        if isinstance(attention, ClipAttention):
            return attention(normed, grid)
        extent, along = clip_extent(x, grid, before), _step_axis(step)
        groups = group_tokens(normed, before, extent, along)
        return groups.ungroup(attention(groups.x, extent.group_grid(along)))

    def _last_residuals(
        self,
        x: Float[Tensor, "batch tokens dim"],
        attended: Float[Tensor, "batch tokens dim"],
    ) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.drop_path1(self.ls1(attended))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def _frames(
        self, x: Float[Tensor, "batch tokens dim"], grid: Grid
    ) -> Float[Tensor, "sequences length dim"]:
        """Return every frame with its own prefix tokens as a sequence."""
        length = self.num_prefix_tokens + grid.rows * grid.columns
        return x.reshape(-1, length, x.shape[-1])


def _step_axis(step: SpaceTimeStep) -> Along:
    assert step.kind in GROUP_AXES
    return step.kind


def _build_attention(config: TimeSformerConfig, step: SpaceTimeStep) -> Attention:
    """Build the attention of one step, with fresh weights."""
    sizes, settings = (config.embed_dim, config.num_heads), attention_settings(config)
    if step.kind not in ("local", "strided"):
        return Attention(*sizes, **settings)
    attention = LocalAttention if step.kind == "local" else StridedAttention
    before = config.num_step_prefix_tokens(step)
    return attention(*sizes, num_prefix_tokens=before, **settings)


HUGGING_FACE = re.compile(r"facebook/timesformer-(base|hr)-finetuned-\w+")


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of a name of Hugging Face."""
    if match := HUGGING_FACE.fullmatch(name):
        return dict(
            NAMES["timesformer_b16_hr" if match[1] == "hr" else "timesformer_b16"]
        )
    return None


FAMILY = Family(
    title="A TimeSformer",
    source="2102.05095",
    config=TimeSformerConfig,
    model=TimeSformer,
    sizes=NAMES,
    size_fields=(
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_dim",
        "patch_hw",
        "num_frames",
        "attention_type",
    ),
    parse_name=parse_name,
    renamed_fields={"scheme": "attention_type"},
)
