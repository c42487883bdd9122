"""Image towers of CLIP (arXiv 2103.00020): the facts that its two layouts share.

The tower is a ViT with a norm before its blocks; the projection to the space that
images and texts share is the head, which has no bias. The text tower is left out.
"""

from vitral.layers import Activation
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts import limits
from vitral.weights.mapping import TensorMapping, zeros

LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    ("its tokens have a norm before the first block", lambda it: not it.norm_pre),
    ("its projection has no bias", lambda it: it.num_classes > 0),
    limits.LEARNED_AT_STEM,
    limits.CLASS_TOKEN_ROW,
    limits.NO_REGISTERS,
    limits.CLASS_TOKEN_FEATURES,
    limits.PLAIN_MLP,
    limits.ALL_BIASES,
    limits.NO_QK_NORM,
    limits.NO_LAYER_SCALE,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NORM_BEFORE_POOL,
    limits.SQUARE_PATCHES,
    limits.SQUARE_TABLES,
)
TEXT = "of the text tower, which vitral does not have"
DROPPED = {
    r"logit_(scale|bias)$": TEXT,
    r".*position_ids$": "numbers of the positions",
}


def head_bias(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of the head's bias, which no file has."""
    return [zeros("head.bias", config.num_classes)]


def note_left_out(opened: LayoutInput, texts: str) -> None:
    """Add a note where the file has a text tower, a tensor of which is `texts`."""
    if texts in opened.file:
        opened.notes.append("the image tower alone: the text tower is left out")


def note_activation(opened: LayoutInput, act: Activation) -> None:
    """Add a note on an activation that no file names."""
    shown = {"quick_gelu": "QuickGELU"}.get(act, "exact GELU")
    opened.notes.append(
        f"{shown} assumed: no file says it. OpenAI's, MetaCLIP's and most of DFN's "
        "weights have QuickGELU (`act=quick_gelu`), others exact GELU (`act=gelu`)"
    )
