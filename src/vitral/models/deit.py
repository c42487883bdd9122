"""DeiT with its distillation token (arXiv 2012.12877): a second token, a second head.

The class token learns from the labels, the distillation token from a teacher; a
prediction is the mean of both heads. DeiT without that token is a plain ViT.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.models.base import Family, Size2d, find_size, require
from vitral.models.features import Features, Tokens
from vitral.models.vit import SIZES, ViT, ViTConfig, build_head


@dataclass(frozen=True, kw_only=True)
class DeiTConfig(ViTConfig):
    """A Vision Transformer with a distillation token after the class token."""

    distillation_head: bool = True
    """Give the distillation token a head; False for weights whose only head is the
    class token's, as Hugging Face's DeiTForImageClassification."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.class_token and self.global_pool == "token",
            "DeiT predicts from its class and distillation tokens: set "
            f"`class_token=True` and `global_pool=token`, got `{self.class_token}` and "
            f"`{self.global_pool}`. Pool otherwise with a plain ViT.",
        )
        require(
            not self.norm_after_pool,
            "DeiT normalises both of its tokens before they are taken out: set "
            "`norm_after_pool=False`.",
        )
        require(
            not (self.distillation_head and self.representation_size),
            "DeiT has no tanh layer before its two heads: set `representation_size=0` "
            f"or `distillation_head=False`, got {self.representation_size}.",
        )

    @property
    def num_prefix_tokens(self) -> int:
        return super().num_prefix_tokens + 1

    def macs(self, image_size: Size2d | None = None) -> int:
        second = self.pooled_dim * self.num_classes if self.distillation_head else 0
        return super().macs(image_size) + second


class DeiT(ViT):
    """A Vision Transformer with a distillation token; `model(images)` gives logits.

    Parameter names are timm's: `dist_token` and `head_dist`.
    """

    config: DeiTConfig

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        self.dist_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        nn.init.trunc_normal_(self.dist_token, std=0.02)

    def reset_head(self, num_classes: int) -> None:
        super().reset_head(num_classes)
        if self.config.distillation_head:
            self.head_dist = build_head(self.config, num_classes, self.blocks)

    def _prefix_tokens(self) -> list[Float[Tensor, "1 tokens dim"]]:
        cls, *registers = super()._prefix_tokens()
        return [cls, self.dist_token, *registers]

    def forward_norm(self, tokens: Tokens) -> Features:
        """Return class token, distillation token and patches after the final norm."""
        features = super().forward_norm(tokens)
        return features._replace(distillation=self.norm(tokens.x[:, 1]))

    def forward_heads(
        self, features: Features
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return the logits of the class token and of the distillation token.

        Without a second head both are the class token's.
        """
        logits = self.head(self.forward_pool(features))
        if not self.config.distillation_head:
            return logits, logits
        assert features.distillation is not None
        return logits, self.head_dist(features.distillation)

    def forward_head(self, features: Features) -> Float[Tensor, "batch classes"]:
        """Return the mean of both heads' logits, as the published models predict."""
        logits, distilled = self.forward_heads(features)
        return (logits + distilled) / 2 if self.config.distillation_head else logits

    def _needs_only_class_token(self, tokens: Tokens, first: int) -> bool:
        one_head = not self.config.distillation_head
        return one_head and super()._needs_only_class_token(tokens, first)

    def layer_index(self, name: str) -> int:
        return 0 if name == "dist_token" else super().layer_index(name)


FOREIGN_SIZES = {"tiny": "ti", "small": "s", "base": "b"}
"""Native size names by those of timm and Hugging Face."""
TIMM = re.compile(
    rf"deit_({'|'.join(FOREIGN_SIZES)})_distilled_patch(\d+)(?:_(\d+))?(?:\.[\w.]+)?"
)
HUGGING_FACE = re.compile(
    rf"facebook/deit-({'|'.join(FOREIGN_SIZES)})-distilled-patch(\d+)(?:-(\d+))?"
)
NAMES: dict[str, dict[str, Any]] = {
    f"deit_{size}16": {
        **SIZES[size],
        "patch_size": 16,
        "image_size": 224,
        "act": "gelu",
    }
    for size in FOREIGN_SIZES.values()
}
"""The three published sizes."""


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of a name of timm or of Hugging Face."""
    for pattern, changes in ((TIMM, {}), (HUGGING_FACE, {"norm_eps": 1e-12})):
        if match := pattern.fullmatch(name):
            size, patch, pixels = match.groups()
            ours = NAMES[f"deit_{FOREIGN_SIZES[size]}16"]
            image = {"patch_size": int(patch), "image_size": int(pixels or 224)}
            return {**ours, **image, **changes}
    return None


def name_for(config: DeiTConfig) -> str:
    """Return the native name of a model's size and patch; empty if it has none."""
    size = find_size(config, {size: SIZES[size] for size in FOREIGN_SIZES.values()})
    return f"deit_{size}16" if size and config.patch_hw == (16, 16) else ""


FAMILY = Family(
    title="A DeiT",
    source="2012.12877",
    config=DeiTConfig,
    model=DeiT,
    sizes=NAMES,
    size_fields=("embed_dim", "depth", "num_heads", "mlp_dim", "patch_hw"),
    parse_name=parse_name,
    name_for=name_for,
)
