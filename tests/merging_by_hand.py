"""Token merging written with lists and loops, one image at a time, from the paper."""

import math

import torch
from torch import Tensor

from vitral.layers import Attention, Grid
from vitral.layers.relative_bias import RelativeBias
from vitral.models import ViT


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def merged_pairs(keys: list[Tensor], count: int) -> list[tuple[int, int]]:
    """(patch that goes, patch it joins): the best edges from even to odd places."""
    edges = []
    for even in range(0, len(keys), 2):
        likes = [(cosine(keys[even], keys[odd]), odd) for odd in range(1, len(keys), 2)]
        like, odd = max(likes)
        edges.append((like, even, odd))
    edges.sort(reverse=True)
    return [(even, odd) for _, even, odd in edges[:count]]


def attended(
    attention: Attention, seen: Tensor, sizes: list[int], groups: list[list[int]]
) -> Tensor:
    """Every logit, weight and sum by itself; the relative score is a mean of pairs."""
    heads, channels = attention.num_heads, attention.head_dim
    q, k, v = attention.qkv(seen).view(len(seen), 3, heads, channels).unbind(1)
    q, k = attention.q_norm(q), attention.k_norm(k)
    rows = []
    for query in range(len(seen)):
        out = []
        for head in range(heads):
            logits = []
            for key in range(len(seen)):
                logit = q[query, head] @ k[key, head] / math.sqrt(channels)
                if isinstance(attention.relative, RelativeBias):
                    grid = attention.relative.grid
                    every = q.new_zeros(1, heads, 1 + math.prod(grid), channels)
                    bias = attention.relative.bias(every, grid)
                    ones, others = (
                        [1 + it for it in groups[at]] or [0] for at in (query, key)
                    )
                    logit += bias[0, head][ones][:, others].mean()
                elif attention.relative is not None:
                    table = attention.relative.table
                    middle = (len(table) - 1) // 2
                    pairs = [
                        q[query, head] @ table[middle + one - other]
                        for one in groups[query]
                        for other in groups[key]
                    ]
                    if pairs:
                        logit += sum(pairs) / len(pairs) / math.sqrt(channels)
                logits.append(logit + math.log(sizes[key]))
            weights = torch.stack(logits).exp()
            out.append((weights / weights.sum()) @ v[:, head])
        rows.append(torch.cat(out))
    return attention.proj(torch.stack(rows))


@torch.no_grad()
def encoded(model: ViT, image: Tensor, rates: tuple[int, ...]) -> tuple:
    """What leaves the blocks for one image, and the patches of each token."""
    tokens = model.embed(image[None])
    grid, prefix = Grid(tokens.rows, tokens.columns), model.config.num_prefix_tokens
    x = tokens.x[0]
    sizes = [1] * len(x)
    groups = [[] for _ in range(prefix)] + [[i] for i in range(len(x) - prefix)]
    tables = model.positions(grid) if model.config.position_at != "stem" else None
    for layer, block in enumerate(model.blocks):
        if tables is not None:
            table = tables[layer % len(tables)]
            own = [
                table[prefix + torch.tensor(group)].mean(0) if group else table[place]
                for place, group in enumerate(groups)
            ]
            x = x + torch.stack(own)
        seen = block.norm1(x)
        x = x + block.ls1(attended(block.attn, seen, sizes, groups)[None])[0]
        inner = block.attn.num_heads * block.attn.head_dim
        k = block.attn.qkv(seen)[:, inner : 2 * inner]
        k = block.attn.k_norm(k.view(len(x), block.attn.num_heads, -1)).mean(1)
        pairs = merged_pairs(
            list(k[prefix:]), min(rates[layer], (len(x) - prefix) // 2)
        )
        vectors = list(x)
        for even, odd in pairs:
            a, b = prefix + even, prefix + odd
            whole = sizes[a] + sizes[b]
            vectors[b] = (sizes[a] * vectors[a] + sizes[b] * vectors[b]) / whole
            sizes[b] = whole
            groups[b] = groups[b] + groups[a]
        gone = {prefix + even for even, _ in pairs}
        order = [
            *range(prefix),
            *range(prefix, len(x), 2),
            *range(prefix + 1, len(x), 2),
        ]
        stays = [place for place in order if place not in gone]
        if not pairs:
            stays = list(range(len(x)))
        x = torch.stack([vectors[place] for place in stays])
        sizes = [sizes[place] for place in stays]
        groups = [groups[place] for place in stays]
        x = x + block.ls2(block.mlp(block.norm2(x)[None]))[0]
    return x, sizes, groups
