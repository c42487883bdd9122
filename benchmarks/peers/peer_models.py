"""Build the plain Vision Transformer of each other library, with random weights."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vitral.models import ViTConfig


class PeerUnavailable(Exception):
    """Raised if a library cannot be compared; the message has the reason."""


class LogitsOnly(nn.Module):
    """A model of transformers that returns its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def build_timm(config: ViTConfig) -> Any:
    """Build timm's VisionTransformer."""
    library = import_peer("timm.models.vision_transformer", "timm")
    return library.VisionTransformer(
        img_size=config.image_hw,
        patch_size=config.patch_hw,
        in_chans=config.in_chans,
        num_classes=config.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_dim / config.embed_dim,
    )


def build_transformers(config: ViTConfig) -> nn.Module:
    """Build transformers' ViTForImageClassification with fused attention."""
    library = import_peer("transformers", "transformers")
    settings = library.ViTConfig(
        hidden_size=config.embed_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        image_size=config.image_hw,
        patch_size=config.patch_hw,
        num_channels=config.in_chans,
        num_labels=config.num_classes,
        layer_norm_eps=config.norm_eps,
        attn_implementation="sdpa",
    )
    return LogitsOnly(library.ViTForImageClassification(settings))


def build_torchvision(config: ViTConfig) -> Any:
    """Build torchvision's VisionTransformer, for square images only."""
    library = import_peer("torchvision.models", "torchvision")
    height, width = config.image_hw
    if height != width or config.patch_hw[0] != config.patch_hw[1]:
        raise PeerUnavailable(f"takes square images only, not {height} x {width}")
    return library.VisionTransformer(
        image_size=height,
        patch_size=config.patch_hw[0],
        num_layers=config.depth,
        num_heads=config.num_heads,
        hidden_dim=config.embed_dim,
        mlp_dim=config.mlp_dim,
        num_classes=config.num_classes,
    )


def build_vit_pytorch(config: ViTConfig) -> Any:
    """Build vit-pytorch's ViT."""
    library = import_peer("vit_pytorch", "vit-pytorch")
    return library.ViT(
        image_size=config.image_hw,
        patch_size=config.patch_hw,
        num_classes=config.num_classes,
        dim=config.embed_dim,
        depth=config.depth,
        heads=config.num_heads,
        dim_head=config.embed_dim // config.num_heads,
        mlp_dim=config.mlp_dim,
        pool="cls",
        channels=config.in_chans,
    )


MODEL_BUILDERS: dict[str, Callable[[ViTConfig], nn.Module]] = {
    "timm": build_timm,
    "transformers": build_transformers,
    "torchvision": build_torchvision,
    "vit-pytorch": build_vit_pytorch,
}


def import_peer(name: str, package: str) -> Any:
    """Import a library.

    Raises:
        PeerUnavailable: it is not installed.
    """
    if importlib.util.find_spec(name.split(".")[0]) is None:
        raise PeerUnavailable(f"not installed: pip install {package}")
    return importlib.import_module(name)
