"""Attention without vitral, and tiny models of other families."""

import math

import torch
import torch.nn.functional as F

from helpers import TINY, centre_biases, randomise
from vitral.models import DeiT, DeiTConfig, VisionModel, ViT
from vitral.models.hybrid import Hybrid, HybridConfig
from vitral.models.resnet import ResNet, ResNetConfig

HYBRID = {
    **TINY,
    "units": (1, 2),
    "stem_width": 8,
    "num_groups": 4,
    "std_eps_at": "variance",
}
RESNET = {
    "image_size": (48, 80),
    "num_classes": 7,
    "units": (1, 2),
    "stem_width": 8,
    "num_groups": 4,
}


def tiny_deit(**changes):
    return _filled(DeiT(DeiTConfig(**{**TINY, **changes})))


def tiny_hybrid(**changes):
    return _filled(Hybrid(HybridConfig(**{**HYBRID, **changes})))


def tiny_resnet(**changes):
    return _filled(ResNet(ResNetConfig(**{**RESNET, **changes})))


def _filled(model):
    model = model.double()
    randomise(model)
    centre_biases(model)
    return model.eval()


def eager(model: ViT, images: torch.Tensor, patch_mask=None) -> torch.Tensor:
    """[batch, layers, heads, tokens, tokens] of what the state dict says, head by head.

    Written from equations 2, 3 and appendix A; only the tokens that enter the first
    block are the model's own.
    """
    state, config = model.state_dict(), model.config
    width, heads = config.embed_dim, config.num_heads
    size = width // heads
    prefix = config.num_prefix_tokens
    with torch.no_grad():
        tokens = model.embed(images, patch_mask)
    x, layers = tokens.x, []
    for layer in range(config.depth):
        part = {
            name.removeprefix(f"blocks.{layer}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"blocks.{layer}.")
        }
        normed = _norm(x, part, "norm1")
        q, k, v = (
            normed @ part["attn.qkv.weight"][i * width : (i + 1) * width].T
            + part["attn.qkv.bias"][i * width : (i + 1) * width]
            for i in range(3)
        )
        found, outs = [], []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            query, key = q[..., own], k[..., own]
            if config.qk_norm:
                query = _norm(query, part, "attn.q_norm")
                key = _norm(key, part, "attn.k_norm")
            logits = torch.einsum("bid,bjd->bij", query, key)
            if config.position == "relative":
                table = part["attn.relative.table"]
                patches = x.shape[1] - prefix
                for i in range(patches):
                    for j in range(patches):
                        key_ij = table[i - j + patches - 1]
                        logits[:, prefix + i, prefix + j] += (
                            query[:, prefix + i] @ key_ij
                        )
            logits = logits / math.sqrt(size)
            if tokens.mask is not None:
                logits = logits.masked_fill(~tokens.mask[:, None, :], -torch.inf)
            weights = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
            found.append(weights)
            outs.append(weights @ v[..., own])
        attended = torch.cat(outs, dim=-1) @ part["attn.proj.weight"].T
        x = x + attended + part["attn.proj.bias"]
        normed = _norm(x, part, "norm2")
        hidden = normed @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"]
        hidden = F.gelu(hidden, approximate="tanh")
        x = x + hidden @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]
        layers.append(torch.stack(found, dim=1))
    result = torch.stack(layers, dim=1)
    if tokens.mask is not None:
        result = result * tokens.mask[:, None, None, :, None]
    return result


def _norm(x, part, name):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    unit = (x - mean) / torch.sqrt(variance + 1e-6)
    return unit * part[f"{name}.weight"] + part[f"{name}.bias"]


def hooks(model: VisionModel) -> int:
    """How many hooks there are on the model and its parts."""
    return sum(
        len(module._forward_pre_hooks)
        + len(module._forward_hooks)
        + len(module._backward_hooks)
        for module in model.modules()
    )
