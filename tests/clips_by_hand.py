"""A TimeSformer written out with whole matrices of attention, from the state dict.

Only the tokens that enter the first block are the model's own. Who sees whom comes from
coordinates, pair by pair, and not from reshapes.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitral.models import TimeSformer
from vitral.models.timesformer.config import STEPS


class ByHand(NamedTuple):
    logits: Tensor
    steps: list[Tensor]
    """[batch, heads, tokens, tokens] each, with gradients kept."""
    patches: list[list[list[int]]]
    """The number of the token of each frame, row and column."""
    class_tokens: list[int]


GROUP = {
    "clip": lambda t, r, c: (),
    "space": lambda t, r, c: (t,),
    "time": lambda t, r, c: (r, c),
    "width": lambda t, r, c: (t, r),
    "height": lambda t, r, c: (t, c),
}
"""What two patches must share to see each other."""


def by_hand(model: TimeSformer, clips: Tensor) -> ByHand:
    config = model.config
    with torch.no_grad():
        tokens = model.embed(clips)
    x, prefix = tokens.x.detach().requires_grad_(), config.num_prefix_tokens
    extent = (clips.shape[1], tokens.rows, tokens.columns)
    at = token_numbers(config.attention_type, prefix, extent)
    first_ones = _prefixes(config.attention_type, prefix, extent)
    kept = []
    for layer in range(config.depth):
        part = {
            name.removeprefix(f"blocks.{layer}."): tensor
            for name, tensor in model.state_dict().items()
            if name.startswith(f"blocks.{layer}.")
        }
        for step in STEPS[config.attention_type]:
            named = f"{step.name}_" if step.name else ""
            inside = not step.name or config.class_token_in == "every_step"
            sets = key_sets(step.kind, extent, at, first_ones if inside else [])
            weights, moved = _attend(
                _norm(x, part, f"{named}norm1"), part, f"{named}attn", sets, config
            )
            if step.name:
                fc = f"{step.name}_fc"
                moved = moved @ part[f"{fc}.weight"].T + part[f"{fc}.bias"]
                moved = moved * torch.tensor([[bool(s)] for s in sets])
            kept.append(weights)
            x = x + moved
        hidden = _norm(x, part, "norm2") @ part["mlp.fc1.weight"].T
        hidden = F.gelu(hidden + part["mlp.fc1.bias"], approximate="tanh")
        x = x + hidden @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]
    class_tokens = [some[0] for some in first_ones] if config.class_token else []
    numbers = [
        [[at[t, r, c] for c in range(extent[2])] for r in range(extent[1])]
        for t in range(extent[0])
    ]
    read = class_tokens if config.global_pool == "token" else list(at.values())
    state = model.state_dict()
    if config.attention_type == "space" and config.global_pool == "token":
        pooled = _norm(x[:, read].mean(1), state, "norm")
    elif config.global_pool == "token":
        pooled = _norm(x[:, read[0]], state, "norm")
    else:
        pooled = _norm(x, state, "norm")[:, read].mean(1)
    logits = pooled @ state["head.weight"].T + state["head.bias"]
    return ByHand(logits, kept, numbers, class_tokens)


def token_numbers(scheme, prefix, extent):
    """From (frame, row, column) to the number of the token."""
    found = {}
    for number, place in enumerate(itertools.product(*map(range, extent))):
        before = prefix * (place[0] + 1) if scheme == "space" else prefix
        found[place] = before + number
    return found


def _prefixes(scheme, prefix, extent):
    """The prefix tokens, a list for each frame that has its own."""
    if scheme != "space":
        return [list(range(prefix))]
    length = prefix + extent[1] * extent[2]
    return [[t * length + i for i in range(prefix)] for t in range(extent[0])]


def key_sets(kind, extent, at, prefixes):
    """For each token the lists of keys that it attends to, each by itself, before the
    mean; no list for a token that takes no part."""
    tokens = len(at) + sum(map(len, prefixes))
    tokens = max(tokens, max(at.values()) + 1)
    sets: list[list[list[int]]] = [[] for _ in range(tokens)]
    own = prefixes[0] if len(prefixes) == 1 else []

    def prefix_of(place):
        return prefixes[place[0]] if len(prefixes) > 1 else own

    for place, number in at.items():
        near = [at[other] for other in at if _sees(kind, extent, place, other)]
        sets[number] = [[*prefix_of(place), *near]]
    if len(prefixes) > 1:
        for t, some in enumerate(prefixes):
            inside = [n for place, n in at.items() if place[0] == t]
            for number in some:
                sets[number] = [[*some, *inside]]
        return sets
    for number in own:
        if kind in GROUP:
            groups: dict = {}
            for place, n in at.items():
                groups.setdefault(GROUP[kind](*place), []).append(n)
            sets[number] = [[*own, *group] for group in groups.values()]
        elif kind == "local":
            sets[number] = [[*own, *at.values()]]
        else:
            coarse = [n for p, n in at.items() if not any(i % 2 for i in p)]
            sets[number] = [[*own, *coarse]]
    return sets


def _sees(kind, extent, place, other):
    if kind in GROUP:
        return GROUP[kind](*place) == GROUP[kind](*other)
    if kind == "local":
        reach = (extent[1] // 4, extent[2] // 4)
        return all(abs(place[i + 1] - other[i + 1]) <= reach[i] for i in (0, 1))
    return not any(i % 2 for i in other)


def _attend(x, part, name, sets, config):
    width, heads = config.embed_dim, config.num_heads
    qkv = x @ part[f"{name}.qkv.weight"].T + part[f"{name}.qkv.bias"]
    q, k, v = (
        t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv.split(width, dim=-1)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    rows = []
    for number, lists in enumerate(sets):
        row = torch.zeros_like(scores[:, :, number])
        for keys in lists:
            share = scores[:, :, number, keys].softmax(-1) / len(lists)
            row = row.index_add(2, torch.tensor(keys), share)
        rows.append(row)
    weights = torch.stack(rows, dim=2)
    weights.retain_grad()
    out = (weights @ v).transpose(1, 2).flatten(2)
    taking_part = torch.tensor([[bool(lists)] for lists in sets])
    out = out @ part[f"{name}.proj.weight"].T + part[f"{name}.proj.bias"]
    return weights, out * taking_part


def _norm(x, part, name):
    weight, bias = part[f"{name}.weight"], part[f"{name}.bias"]
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)
