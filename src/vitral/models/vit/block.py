"""Build a block of a Vision Transformer from the model's settings."""

from vitral.layers import Attention, Block, Mlp, RelativePosition, SwiGLU
from vitral.models.vit.config import ViTConfig


def build_block(config: ViTConfig, drop_path: float) -> Block:
    """Build a block with fresh weights."""
    dim, relative = config.embed_dim, None
    if config.position == "relative":
        relative = RelativePosition(
            config.grid,
            config.attention_dim // config.num_heads,
            config.num_prefix_tokens,
        )
    attention = Attention(
        dim,
        config.num_heads,
        head_dim=config.head_dim or None,
        qkv_bias=config.qkv_bias,
        proj_bias=config.proj_bias,
        qk_norm=config.qk_norm,
        norm_eps=config.norm_eps,
        drop=config.drop_rate,
        relative=relative,
    )
    layer = SwiGLU if config.mlp == "swiglu" else Mlp
    mlp = layer(dim, config.mlp_dim, act=config.act, drop=config.drop_rate)
    return Block(
        dim,
        attention,
        mlp,
        norm_eps=config.norm_eps,
        init_values=config.init_values,
        drop_path=drop_path,
    )
