"""Names of Vision Transformers: native, timm's and Hugging Face's."""

import re
from typing import Any

from vitral.models.base import find_size
from vitral.models.vit.config import PATCH_SIZES, SIZES, ViTConfig

NAME_PATTERN = re.compile(rf"vit_({'|'.join(SIZES)})(\d+)")
FOREIGN_SIZES = {
    "tiny": "ti",
    "small": "s",
    "medium": "m",
    "base": "b",
    "large": "l",
    "so400m": "so400m",
    "huge": "h",
    "giant": "giant",
    "gigantic": "gigantic",
}
"""Native size names by those of timm and Hugging Face."""
TIMM = re.compile(
    rf"(?:vit|deit3?)_({'|'.join(FOREIGN_SIZES)})_patch(\d+)"
    r"(_reg4)?(?:_(\d+)|_(dinov2))?(?:\.[\w.]+)?"
)
CLIP = re.compile(
    rf"vit_({'|'.join(FOREIGN_SIZES)})_patch(\d+)_clip_(quickgelu_)?(\d+)(?:\.[\w.]+)?"
)
BEIT = re.compile(r"beit(v2)?_(base|large)_patch(16)_(\d+)(?:\.[\w.]+)?")
DINOV3 = re.compile(
    r"vit_(small|small_plus|base|large|huge_plus)_patch16_dinov3(?:\.[\w.]+)?"
)
EVA02 = re.compile(r"eva02_(tiny|small|base|large)_patch14_(\d+)(?:\.[\w.]+)?")
EVA01 = re.compile(r"eva_giant_patch14_(clip_)?(\d+)(?:\.[\w.]+)?")
ROPE = re.compile(
    r"vit_(medium|mediumd|betwixt|base)_patch16_rope_reg(\d)_gap_256(?:\.[\w.]+)?"
)
"""timm's own models with EVA-02's angles."""
AIMV2 = re.compile(r"aimv2_(large|huge|1b|3b)_patch14_(\d+)(?:\.[\w.]+)?")
AIMV2_SIZES = {
    "large": (1024, 2816, 8),
    "huge": (1536, 4096, 12),
    "1b": (2048, 5632, 16),
    "3b": (3072, 8192, 24),
}
"""Width, hidden width and heads; all have 24 blocks."""
POOLED = {"act": "gelu", "global_pool": "avg", "norm_after_pool": True, "k_bias": False}
DINOV2_GIANT = {"embed_dim": 1536, "num_heads": 24, "mlp_dim": 4096, "mlp": "swiglu"}
"""Settings of DINOv2's giant, which is not that of 2106.04560."""
HUGGING_FACE = re.compile(
    rf"(?:google|facebook)/(?:dino-vit|vit-?|deit-)({'|'.join(FOREIGN_SIZES)})"
    r"-patch(\d+)(?:-(\d+))?(?:-in21k)?"
)


def settings(size: str, patch: int) -> dict[str, Any]:
    """Return the settings of the name vit_<size><patch>."""
    # 224, or the nearest multiple of the patch below it.
    side = max(224 // patch, 1) * patch
    return {**SIZES[size], "patch_size": patch, "image_size": side}


NAMES = {
    f"vit_{size}{patch}": settings(size, patch)
    for size in SIZES
    for patch in PATCH_SIZES
}
"""Settings of every listed name, sizes by patches."""


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of a name of another patch size, or of a foreign name."""
    if match := NAME_PATTERN.fullmatch(name):
        return settings(match[1], int(match[2]))
    if match := TIMM.fullmatch(name):
        size, patch, registers, pixels, dinov2 = match.groups()
        changes: dict[str, Any] = {"act": "gelu", "image_size": int(pixels or 224)}
        if dinov2:
            changes |= {"image_size": 518, "init_values": 1e-5}
            changes |= DINOV2_GIANT if size == "giant" else {}
        if name.startswith("deit3"):
            changes |= {"no_embed_class": True, "init_values": 1e-6}
        if registers:
            changes |= {"reg_tokens": 4, "no_embed_class": True}
        return {**settings(FOREIGN_SIZES[size], int(patch)), **changes}
    if match := CLIP.fullmatch(name):
        size, patch, quick, pixels = match.groups()
        changes = {"norm_pre": True, "norm_eps": 1e-5, "image_size": int(pixels)}
        changes["act"] = "quick_gelu" if quick else "gelu"
        return {**settings(FOREIGN_SIZES[size], int(patch)), **changes}
    if match := BEIT.fullmatch(name):
        second, size, patch, pixels = match.groups()
        changes = {
            **POOLED,
            "position": "relative_bias",
            "position_resize": "geometric",
            "init_values": 0.1 if size == "base" and not second else 1e-5,
            "image_size": int(pixels),
        }
        return {**settings(FOREIGN_SIZES[size], int(patch)), **changes}
    if eva := _eva(name):
        return eva
    if match := AIMV2.fullmatch(name):
        width, hidden, heads = AIMV2_SIZES[match[1]]
        return {
            "embed_dim": width,
            "mlp_dim": hidden,
            "num_heads": heads,
            "depth": 24,
            "patch_size": 14,
            "image_size": int(match[2]),
            "act": "gelu",
            "class_token": False,
            "global_pool": "avg",
            "norm_eps": 1e-5,
            "mlp": "swiglu",
            "norm": "rms",
            "qkv_bias": False,
            "proj_bias": False,
        }
    if match := DINOV3.fullmatch(name):
        return _dinov3(match[1])
    if match := HUGGING_FACE.fullmatch(name):
        size, patch, pixels = match.groups()
        changes = {"act": "gelu", "norm_eps": 1e-12, "image_size": int(pixels or 224)}
        return {**settings(FOREIGN_SIZES[size], int(patch)), **changes}
    return None


def _eva(name: str) -> dict[str, Any] | None:
    """Return the settings of EVA-01, EVA-02 or a model with EVA-02's angles."""
    if match := EVA01.fullmatch(name):
        clip, pixels = match.groups()
        pool = {"global_pool": "token", "norm_after_pool": False} if clip else {}
        return {**settings("giant", 14), **POOLED, **pool, "image_size": int(pixels)}
    if match := EVA02.fullmatch(name):
        sizes = settings(FOREIGN_SIZES[match[1]], 14)
        changes = {
            "position": "learned_rotary",
            "mlp": "swiglu",
            "mlp_dim": int(sizes["embed_dim"] * 8 / 3),
            "mlp_norm": match[1] in ("base", "large"),
            "image_size": int(match[2]),
        }
        return {**sizes, **POOLED, **changes}
    if match := ROPE.fullmatch(name):
        size, registers = match.groups()
        changes = {
            "position": "rotary_index",
            "class_token": False,
            "reg_tokens": int(registers),
            "init_values": 1e-5,
            "image_size": 256,
        }
        if size == "mediumd":
            changes |= {"depth": 20, "qkv_bias": False, "k_bias": True}
        if size == "betwixt":
            changes |= {"embed_dim": 640, "mlp_dim": 2560, "num_heads": 10}
        known = settings("b" if size == "base" else "m", 16)
        return {**known, **POOLED, **changes}
    return None


def _dinov3(name: str) -> dict[str, Any]:
    """Return the settings of DINOv3 (arXiv 2508.10104) of a size in timm's words."""
    size, _, plus = name.partition("_")
    changes: dict[str, Any] = {
        "act": "gelu",
        "position": "rotary",
        "reg_tokens": 4,
        "qkv_bias": False,
        "init_values": 1e-5,
        "norm_eps": 1e-5,
    }
    if plus:
        changes["mlp"] = "swiglu"
    if size == "huge":
        changes["num_heads"] = 20
    return {**settings(FOREIGN_SIZES[size], 16), **changes, "image_size": 256}


def name_for(config: ViTConfig) -> str:
    """Return the native name of a model's size and patch; empty if it has none."""
    size, (rows, columns) = find_size(config, SIZES), config.patch_hw
    return f"vit_{size}{rows}" if size and rows == columns else ""
