"""Multiply-accumulates of the blocks of a ViT."""

from vitral.models.vit.config import ViTConfig


def encoder_macs(model: ViTConfig, tokens: int) -> int:
    """Count all blocks on `tokens` tokens."""
    layers = 3 if model.mlp == "swiglu" else 2
    inner = model.attention_dim
    return model.depth * block_macs(
        tokens, model.embed_dim, inner, layers * model.embed_dim * model.mlp_dim
    )


def block_macs(tokens: int, dim: int, inner: int, mlp: int) -> int:
    """Count the four projections, the attention products and the MLP of a block."""
    return tokens * (4 * dim * inner + mlp) + 2 * tokens**2 * inner
