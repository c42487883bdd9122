""".npz files of google-research/vision_transformer, with old and newer names.

The paper's files and those of "How to train your ViT" (arXiv 2106.10270), hybrids
included. Their code computes GELU by tanh and resizes positions corner to corner.
"""

from dataclasses import replace

from vitral.data import Preprocess
from vitral.models import HybridConfig, ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import resnet_shapes
from vitral.weights.layouts.google import flax_names, flax_resnet
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping

OPTIMIZER = "opt/target/"
"""Prefix of every name in files that were saved with their optimizer."""


def detect(opened: LayoutInput) -> bool:
    """Return whether the stem and the first block have this project's names."""
    return _style(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    style = _style(opened)
    assert style is not None
    facts = flax_names.read_vit_fields(opened, style)
    config: ViTConfig
    if f"{style.prefix}{flax_resnet.ROOT}" in opened.file:
        config = HybridConfig(**flax_resnet.read_fields(opened, style.prefix, facts))
    else:
        config = ViTConfig(**facts)
    preprocess = Preprocess(image_size=config.image_hw)
    return opened.source(LAYOUT.title, config, _mappings(config, style), preprocess)


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, ViTConfig)
    return _mappings(config, flax_names.OLD)


def unsupported_reason(config: ModelConfig) -> str:
    if type(config) not in (ViTConfig, HybridConfig):
        return "its ViT and its hybrids are all that it has"
    assert isinstance(config, ViTConfig)
    if isinstance(config, HybridConfig):
        reason = resnet_shapes.unsupported_structure(config, "same")
        if reason:
            return reason
    if config.position != "learned_1d":
        return "it learns one position a patch"
    if config.global_pool == "map":
        return "it has no attention pooling"
    return flax_names.unsupported_reason(config)


def make_output(spec: ModelSpec) -> LayoutOutput:
    assert isinstance(spec.config, ViTConfig)
    notes = flax_names.numerics(spec.config)
    if isinstance(spec.config, HybridConfig):
        notes += resnet_shapes.differences(
            spec.config, flax_resnet.NUMERICS, "the official code"
        )
    return LayoutOutput(notes=notes)


def _mappings(config: ViTConfig, style: flax_names.Style) -> list[TensorMapping]:
    rules = flax_names.vit_mappings(config, style)
    if isinstance(config, HybridConfig):
        rules += flax_resnet.mappings(config, style.prefix)
    return rules


def _style(opened: LayoutInput) -> flax_names.Style | None:
    for prefix in ("", OPTIMIZER):
        for style in (flax_names.OLD, flax_names.NEWER):
            first = f"{prefix}Transformer/encoderblock_0/{style.attention}/query/kernel"
            if first in opened.file and f"{prefix}{style.pos_embed}" in opened.file:
                return replace(style, prefix=prefix)
    return None


LAYOUT = Layout(
    name="google",
    title="vision_transformer",
    container="npz",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
