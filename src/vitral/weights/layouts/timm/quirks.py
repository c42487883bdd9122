"""Settings of timm models that cannot be inferred from tensors: heads, form of GELU.

Some architectures share names and shapes of tensors with the plain Vision Transformer
and compute another function. Without config.json, heads are assumed and noted.
"""

import re
from typing import Any

from vitral.errors import WeightsError
from vitral.weights.checkpoint_facts import LayoutInput

TANH = re.compile(
    r"vit_(base_patch32_siglip(_gap)?_256|large_patch16_siglip(_gap)?_512"
    r"|(so400m|giantopt)_patch16_siglip(_gap)?_\d+)"
)
HEADS = {
    "vit_base_patch16_gap_224": 16,
    "vit_giantopt_patch16_siglip": 16,
    "test_vit": 2,
    "test_vit2": 2,
    "test_vit3": 3,
    "test_vit4": 3,
}
"""Heads that do not follow from the width, by prefix of the name."""
OTHERS = {
    "vit_base_patch16_rpn": "normalises after attention and perceptron",
}
"""Architectures that only look like a Vision Transformer, and what they do instead."""


def architecture_changes(opened: LayoutInput) -> dict[str, Any]:
    """Return the arguments of timm's model that the architecture's name decides."""
    name = str(opened.config_json.get("architecture", "")).split(".")[0]
    for start, instead in OTHERS.items():
        if name.startswith(start):
            raise WeightsError(
                f"{opened.path}: timm's {name} {instead}, which vitral's model does "
                "not, though its tensors have the same names. Use timm for it."
            )
    changes: dict[str, Any] = {}
    if TANH.fullmatch(name):
        changes["act_layer"] = "gelu_tanh"
    for start, heads in HEADS.items():
        exact = name == start or (start.startswith("vit_g") and name.startswith(start))
        if exact:
            changes["num_heads"] = heads
    return changes
