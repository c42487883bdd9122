"""Grad-CAM: evidence for a class in the cells of a map (arXiv 1610.02391, section 3).

    relu(sum over channels of a_c F_c),   a_c = mean over cells of d logit / d F_c

In a network that ends in a mean and one linear layer, as BiT, this is the class
activation map: its cells sum to the logit without the bias, up to the relu.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.inspection.capture import (
    eval_mode,
    get_places,
    has_attention,
    require_batch,
)
from vitral.inspection.maps import normalize_by_max, require_head, sum_target_logits
from vitral.layers import gather_tokens, merge_matrix
from vitral.models import VisionModel
from vitral.models.hybrid import HybridEmbed


def grad_cam(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None = None,
    layer: int | None = None,
) -> Float[Tensor, "batch *frames rows columns"]:
    """Return the evidence for a class of each cell; each map's largest value is 1.

    A map without a cell in favour is zero. A clip has one map over all its frames. No
    parameter's `.grad` is written.

    Args:
        classes: one for all images, one for each, or None for the predicted ones.
        layer: block whose input patches are the map; `num_blocks` for the last output.
            None: the last useful map. For a ResNet that is its final norm's output,
            for a hybrid its backbone's output in its own rows and columns. For a Vision
            Transformer it is the last block's input, because a head that reads the
            class token has no gradient at patches after it.

    Raises:
        ConfigError: the model has no head, or not such a class or block.
    """
    require_head(model)
    count = model.config.num_blocks
    if layer is not None and not 0 <= layer <= count:
        raise ConfigError(
            f"`layer` must lie between 0 (what enters the first block) and {count} "
            f"(what leaves the last): got {layer}."
        )
    images = require_batch(model, images)
    with torch.inference_mode(False), eval_mode(model.modules()), torch.enable_grad():
        backbone = _backbone(model)
        if layer is not None:
            cells, logits = _from_block(model, images, layer)
        elif backbone is not None:
            cells, logits = _from_backbone(model, images, backbone)
        elif has_attention(model):
            cells, logits = _from_block(model, images, count - 1)
        else:
            cells, logits = _from_features(model, images)
        (gradient,) = torch.autograd.grad(sum_target_logits(logits, classes), cells)
    # The cells have channels last.
    weight = gradient.mean(dim=tuple(range(1, gradient.ndim - 1)), keepdim=True)
    maps = (cells.detach() * weight).sum(dim=-1)
    return normalize_by_max(maps.relu()).cpu()


CellsAndLogits = tuple[
    Float[Tensor, "batch *frames rows columns dim"], Float[Tensor, "batch classes"]
]
"""Map to explain, and the logits computed from it."""


def _from_block(model: VisionModel, images: Tensor, layer: int) -> CellsAndLogits:
    with torch.no_grad():
        tokens = model.forward_blocks(model.embed(images), 0, layer)
    places = get_places(model, tokens)
    if places is not None:
        cells = tokens.x[:, places.patches].clone().requires_grad_()
        patches = places.patches.flatten().to(cells.device)
        x = tokens.x.index_copy(1, patches, cells.flatten(1, 3))
        rest = model.forward_blocks(tokens._replace(x=x), layer)
        return cells, model.forward_head(model.forward_norm(rest))
    prefix = model.config.num_prefix_tokens
    first = tokens.x[:, :prefix].clone()
    patches, merged = tokens.x[:, prefix:], tokens.merged
    if merged is not None:
        patches = gather_tokens(tokens.x, merged.source)
    cells = patches.unflatten(1, (tokens.rows, tokens.columns)).clone()
    after = cells.requires_grad_().flatten(1, 2)
    if merged is not None:
        after = merge_matrix(merged)[:, prefix:, prefix:].to(after.dtype) @ after
    x = torch.cat([first, after], dim=1)
    rest = model.forward_blocks(tokens._replace(x=x), layer)
    return cells, model.forward_head(model.forward_norm(rest))


def _from_features(model: VisionModel, images: Tensor) -> CellsAndLogits:
    with torch.no_grad():
        features = model.forward_features(images)
    cells = features.patches.clone().requires_grad_()
    return cells, model.forward_head(features._replace(patches=cells))


def _from_backbone(
    model: VisionModel, images: Tensor, backbone: nn.Module
) -> CellsAndLogits:
    cells: list[Tensor] = []

    def make_leaf(module: nn.Module, args: object, out: Tensor) -> Tensor:
        # The leaf has channels last, so that its gradient has them there too.
        cells.append(out.detach().movedim(1, -1).clone().requires_grad_())
        return cells[0].movedim(-1, 1)

    hook = backbone.register_forward_hook(make_leaf)
    try:
        logits = model.forward_head(model.forward_features(images))
    finally:
        hook.remove()
    return cells[0], logits


def _backbone(model: VisionModel) -> nn.Module | None:
    embeds = (module for module in model.modules() if isinstance(module, HybridEmbed))
    embed = next(embeds, None)
    return None if embed is None else embed.backbone
