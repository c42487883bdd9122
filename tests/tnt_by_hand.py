"""A TNT from its state dict alone, patch by patch and head by head (2103.00112)."""

import math
from typing import NamedTuple

import torch
from torch import nn

from vitral.models import TNT


class ByHand(NamedTuple):
    """What a pass gives, and the weights of each attention on the way."""

    logits: torch.Tensor
    inner: torch.Tensor
    """[images, layers, patches, heads, words, words]."""
    outer: torch.Tensor
    """[images, layers, heads, tokens, tokens]."""


def by_hand(model: TNT, image: torch.Tensor) -> ByHand:
    """For the class token and positions of the model's own grid, in float64."""
    with torch.no_grad():
        found = [_one(model, picture) for picture in image]
    return ByHand(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def _one(model: TNT, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
    state, config = model.state_dict(), model.config

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        spread = x.var(dim=-1, correction=0, keepdim=True) + 1e-5
        unit = (x - x.mean(dim=-1, keepdim=True)) / spread.sqrt()
        return unit * state[f"{name}.weight"] + state[f"{name}.bias"]

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        bias = state.get(f"{name}.bias", torch.zeros(()).to(x))
        return x @ state[f"{name}.weight"].T + bias

    def block(
        x: torch.Tensor, name: str, heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = dense(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=-1)
        size = x.shape[-1] // heads
        outs, weights = [], []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            logits = q[:, own] @ k[:, own].T / math.sqrt(size)
            weights.append(logits.softmax(dim=-1))
            outs.append(weights[-1] @ v[:, own])
        x = x + dense(torch.cat(outs, dim=-1), f"{name}.attn.proj")
        hidden = dense(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return x + dense(hidden, f"{name}.mlp.fc2"), torch.stack(weights)

    def fold(words: list[torch.Tensor], name: str) -> torch.Tensor:
        stacked = norm(torch.stack([w.reshape(-1) for w in words]), f"{name}.norm1")
        return norm(dense(stacked, f"{name}.proj"), f"{name}.norm2")

    height, width = config.patch_hw
    words = []
    for top in range(0, picture.shape[1], height):
        for left in range(0, picture.shape[2], width):
            made = nn.functional.conv2d(
                picture[None, :, top : top + height, left : left + width],
                state["patch_embed.proj.weight"],
                state["patch_embed.proj.bias"],
                stride=config.word_hw,
                padding=config.word_kernel // 2,
            )[0]
            made = made.permute(1, 2, 0).reshape(-1, config.inner_dim)
            words.append(made + state["patch_embed.word_pos"][0])
    x = torch.cat([state["cls_token"][0], fold(words, "patch_embed.fold")])
    x = x + state["pos_embed"][0]
    inner, outer = [], []
    for layer in range(config.depth):
        name = f"blocks.{layer}"
        done = [block(own, f"{name}.inner", config.inner_num_heads) for own in words]
        words = [own for own, _ in done]
        inner.append(torch.stack([weights for _, weights in done]))
        x = torch.cat([x[:1], x[1:] + fold(words, f"{name}.fold")])
        x, weights = block(x, f"{name}.outer", config.num_heads)
        outer.append(weights)
    logits = dense(norm(x[:1], "norm"), "head")[0]
    return logits, torch.stack(inner), torch.stack(outer)
