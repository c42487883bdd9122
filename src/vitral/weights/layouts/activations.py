"""Activation of a tower in timm's names: of arguments, name, or pre-training."""

import re
from collections.abc import Mapping
from typing import Any

from vitral.layers import Activation
from vitral.weights.checkpoint_facts import LayoutInput

ACTIVATIONS: dict[str, Activation] = {
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""Activations by the argument `act_layer`; all other models have exact GELU."""
QUICK_GELU = re.compile(
    r"vit_(base_patch(16|32)_clip_224\.(openai|metaclip_(2pt5b|400m))"
    r"|base_patch32_clip_224\.laion400m_e32"
    r"|large_patch14_clip_224\.(openai|dfn2b|metaclip_(2pt5b|400m))"
    r"|large_patch14_clip_336\.openai"
    r"|huge_patch14_clip_224\.(dfn5b|metaclip_2pt5b|metaclip2_worldwide)"
    r"|huge_patch14_clip_378\.dfn5b"
    r"|gigantic_patch14_clip_224\.metaclip_2pt5b)"
)
"""Weights that were trained with QuickGELU, by timm's name and tag. timm computes exact
GELU under these names, and QuickGELU under `..._clip_quickgelu_...`."""


def read_activation(opened: LayoutInput, given: Mapping[str, Any]) -> Activation:
    """Return the activation that the weights were trained with.

    Args:
        given: arguments of timm's model.
    """
    if given.get("act_layer"):
        return ACTIVATIONS.get(str(given["act_layer"]), "gelu")
    name = str(opened.config_json.get("architecture", "")).partition(".")[0]
    pretrained = opened.config_json.get("pretrained_cfg")
    tag = pretrained.get("tag") if isinstance(pretrained, Mapping) else None
    if not QUICK_GELU.fullmatch(f"{name}.{tag}"):
        return "gelu"
    opened.notes.append(
        f"QuickGELU, with which {name}.{tag} was trained; timm has exact GELU under "
        "this name, which `act=gelu` gives"
    )
    return "quick_gelu"
