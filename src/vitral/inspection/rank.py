"""Rank collapse: the relative residual of the tokens over depth (arXiv 2103.03404).

Attention alone drives all tokens to one vector: ||X - mean|| / ||X|| shrinks by a power
of three a layer. A skip connection stops that, a perceptron only slows it. The paper
gives LayerNorm no role; arXiv 2405.18781 proves that it can keep tokens apart.
"""

import copy
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.attention import Attention
from vitral.layers.position import Grid
from vitral.layers.transformer import Block
from vitral.models.base import VisionModel
from vitral.models.merging import set_merge

ABLATIONS = ("attn_skip", "mlp_skip", "mlp", "norm")
"""Parts to remove from every block: the skip around the attention, the skip around the
perceptron, the perceptron with its branch (tokens bypass it), both LayerNorms."""

MOST_PATHS = 4096
"""Explicit paths are for small networks: a ViT-B/16 has 12^12 of full length."""


def composite_norm(
    x: Float[Tensor, "*batch tokens dim"],
) -> Float[Tensor, "*batch"]:
    """Return sqrt(||X||_1 ||X||_inf), from the largest absolute column and row sums."""
    size = x.abs()
    return (size.sum(-2).amax(-1) * size.sum(-1).amax(-1)).sqrt()


def relative_residual(
    x: Float[Tensor, "*batch tokens dim"],
) -> Float[Tensor, "*batch"]:
    """Return ||X - 1 mean(X)|| / ||X||: 0 when all tokens are the same vector."""
    norm = composite_norm(x)
    residual = composite_norm(x - x.mean(dim=-2, keepdim=True))
    return torch.where(norm > 0, residual / norm, torch.zeros_like(norm))


def token_similarity(
    x: Float[Tensor, "*batch tokens dim"],
) -> Float[Tensor, "*batch"]:
    """Return the mean cosine between two different tokens; 1 for a single token.

    It is the usual measure of over-smoothing.
    """
    count = x.shape[-2]
    if count == 1:
        return x.new_ones(x.shape[:-2])
    # Attention alone can leave tokens of 1e-60, whose squares must not vanish.
    tiny = torch.finfo(x.dtype).tiny
    scaled = x / x.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=tiny)
    direction = scaled / scaled.norm(dim=-1, keepdim=True).clamp(min=tiny)
    pairs = direction.sum(-2).square().sum(-1) - direction.square().sum((-2, -1))
    return pairs / (count * (count - 1))


def residual_profile(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    ablate: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, " layers_and_input"]:
    """Return the mean `relative_residual` of the first block's input and each output.

    The mean is over the images. Class token and registers are included.

    Args:
        ablate: parts to remove from every block; see ABLATIONS. Attention alone, as in
            the paper's figures, is {"attn_skip", "mlp"}: LayerNorm stays.
        dtype: dtype of the private copy of the model that runs. Below its rounding,
            1e-7 in float32, a flat curve means nothing.

    Raises:
        ConfigError: an unknown ablation, or a model without Transformer blocks.
    """
    layers = layer_tokens(model, images, ablate, dtype)
    return torch.stack([relative_residual(x).mean().cpu() for x in layers])


def similarity_profile(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    ablate: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, " layers_and_input"]:
    """Return the mean `token_similarity` per layer; see `residual_profile`."""
    layers = layer_tokens(model, images, ablate, dtype)
    return torch.stack([token_similarity(x).mean().cpu() for x in layers])


def layer_tokens(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    ablate: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
) -> Iterator[Float[Tensor, "batch tokens dim"]]:
    """Yield the first block's input, then each block's output.

    The model itself is not changed, and no tokens are merged. For arguments and errors
    see `residual_profile`.
    """
    if unknown := sorted(set(ablate) - set(ABLATIONS)):
        raise ConfigError(
            f"`ablate` must be taken from {', '.join(ABLATIONS)}: got "
            f"{', '.join(unknown)}."
        )
    if not any(isinstance(module, Block) for module in model.modules()):
        raise ConfigError(
            f"{type(model).__name__} has no Transformer blocks, so there is no "
            "attention whose rank could collapse: give a model with attention, such as "
            "a ViT."
        )
    private = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
    set_merge(private, 0)  # an ablated block cannot merge
    _ablate(private, frozenset(ablate))
    device = next(private.parameters()).device
    tokens = private.embed(images.detach().to(device, dtype))
    yield tokens.x
    for layer in range(private.config.num_blocks):
        tokens = private.forward_blocks(tokens, layer, layer + 1)
        yield tokens.x


class _AblatedBlock(nn.Module):
    """A block without some of its parts."""

    def __init__(self, block: Block, ablate: frozenset[str]) -> None:
        super().__init__()
        self.block = block
        self.ablate = ablate

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        block, norm = self.block, "norm" not in self.ablate
        branch = block.ls1(block.attn(block.norm1(x) if norm else x, grid, mask))
        x = branch if "attn_skip" in self.ablate else x + branch
        if "mlp" in self.ablate:
            return x
        branch = block.ls2(block.mlp(block.norm2(x) if norm else x))
        return branch if "mlp_skip" in self.ablate else x + branch


def _ablate(model: VisionModel, ablate: frozenset[str]) -> None:
    """Replace the blocks of a private model in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Block):
                setattr(parent, name, _AblatedBlock(child, ablate))


def path_lengths(depth: int, num_heads: int) -> list[int]:
    """Return the number of paths of each length, 0 ... depth, of a network with skips.

    In each layer a path takes one of the heads or the skip: C(depth, k) num_heads^k.
    """
    return [math.comb(depth, k) * num_heads**k for k in range(depth + 1)]


def path_count(depth: int, num_heads: int) -> int:
    """Return the number of all paths: (num_heads + 1)^depth."""
    return (num_heads + 1) ** depth


@dataclass(frozen=True, slots=True)
class Paths:
    """A network of attention layers written as a sum: its paths, and a constant."""

    steps: list[tuple[int | None, ...]]
    """Head of each path in each layer; None where it takes the skip."""
    terms: Float[Tensor, "paths batch tokens dim"]
    """P_L ... P_1 X W_1 ... W_L, with P the attention weights of the path's head and W
    the product of that head's value and output matrices."""
    constant: Float[Tensor, " dim"]
    """Sum of the biases, equal for every token because rows of P sum to one."""


@torch.no_grad()
def decompose_paths(
    layers: Sequence[Attention],
    x: Float[Tensor, "batch tokens dim"],
    grid: Grid,
    *,
    skip: bool = False,
) -> Paths:
    """Decompose attention layers in sequence, with nothing between them, into paths.

    `terms.sum(0) + constant` is what the layers compute.

    Args:
        layers: without dropout, in the data type of `x`.
        skip: around each layer; paths of every length then occur.

    Raises:
        ConfigError: more than 4096 paths.
    """
    count = math.prod(layer.num_heads + skip for layer in layers)
    if count > MOST_PATHS:
        raise ConfigError(
            f"{len(layers)} layers make {count} paths; each is a tensor of its own, so "
            f"at most {MOST_PATHS} are written out: give fewer layers or heads."
        )
    steps: list[tuple[int | None, ...]] = [()]
    terms, state = [x], x
    constant = x.new_zeros(x.shape[-1])
    for layer in layers:
        weights, maps = layer.attention_weights(state, grid), _head_maps(layer)
        choices: list[int | None] = [*([None] if skip else []), *range(len(maps))]
        steps = [(*path, choice) for path in steps for choice in choices]
        terms = [
            term if choice is None else weights[:, choice] @ term @ maps[choice]
            for term in terms
            for choice in choices
        ]
        constant = (
            (constant if skip else torch.zeros_like(constant))
            + constant @ maps.sum(0)
            + _constant(layer, constant)
        )
        state = layer(state, grid) + (state if skip else 0)
    return Paths(steps, torch.stack(terms), constant)


def _head_maps(layer: Attention) -> Float[Tensor, "heads dim dim"]:
    """Return value matrix times output matrix of each head, for rows of tokens."""
    heads = (layer.num_heads, layer.head_dim)
    value = layer.qkv.weight.unflatten(0, (3, *heads))[2].transpose(1, 2)
    out = layer.proj.weight.unflatten(1, heads).permute(1, 2, 0)
    return value @ out


def _constant(layer: Attention, template: Tensor) -> Float[Tensor, " dim"]:
    """Return the sum that the biases of values and output add to every token."""
    total = torch.zeros_like(template)
    if layer.qkv.bias is not None:
        total = total + layer.proj.weight @ layer.qkv.bias.chunk(3)[2]
    return total if layer.proj.bias is None else total + layer.proj.bias
