"""Arguments that a name of timm's decides and no tensor shows."""

import re
from typing import Any

HEADS = {
    "xsmall": 4,
    "tiny": 3,
    "wee": 4,
    "dwee": 4,
    "little": 5,
    "dlittle": 5,
    "small": 6,
    "medium": 8,
    "mediumd": 8,
    "betwixt": 10,
    "base": 12,
    "so150m2": 13,
    "so150m": 14,
    "large": 16,
    "so400m": 16,
    "huge": 16,
    "giant": 16,
    "giantopt": 16,
    "gigantic": 16,
}
"""Heads of each size, whatever width the arguments of config.json give it."""
ARCHITECTURES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        r"vit_(base_patch32_siglip(_gap)?_256|large_patch16_siglip(_gap)?_512"
        r"|(so400m|giantopt)_patch16_siglip(_gap)?_\d+)",
        {"act_layer": "gelu_tanh"},
    ),
    (r"vit_.*_clip_(quickgelu_)?\d+", {"pre_norm": True}),
    (r"vit_pe_.*|vit_.*_rope_.*", {"use_rot_pos_emb": True}),
    (r".*_quickgelu_.*", {"act_layer": "quick_gelu"}),
    (
        r"vit_base_patch16_rpn.*",
        {"block_fn": "ResPostBlock (normalises after attention and perceptron)"},
    ),
    (
        r"vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)",
        {"mlp_layer": "SwiGLUPacked", "num_heads": 24},
    ),
    (r"vit_base_patch\d+_plus_(clip_)?\d+", {"num_heads": 14}),
    (r"vit_base_patch16_gap_224|vit_giantopt_patch16_siglip.*", {"num_heads": 16}),
    (r"test_vit2?", {"num_heads": 2}),
    (r"test_vit[34]", {"num_heads": 3}),
    (r"test_vit3", {"pool_include_prefix": True}),
)
"""Arguments that a name of timm's decides and no tensor shows, by name."""


def implied_arguments(architecture: str) -> dict[str, Any]:
    """Return the arguments that an architecture's name decides."""
    implied: dict[str, Any] = {}
    size = re.fullmatch(
        r"(?:vit|deit|deit3|flexivit|eva|eva02)_([a-z0-9]+)(_.*)?", architecture
    )
    if size and size[1] in HEADS:
        implied["num_heads"] = HEADS[size[1]]
    for pattern, changes in ARCHITECTURES:
        if re.fullmatch(pattern, architecture):
            implied |= changes
    return implied
