""".npz files of google-research/big_vision.

Positions are added before the class token is prepended, so it has no row of its own.
Pooling is by class token, by mean or by attention (arXiv 2106.04560).
"""

from dataclasses import replace
from functools import partial

from vitral.data import Preprocess
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits
from vitral.weights.layouts.google import flax_names
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping

FIRST = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
PREFIXES = ("params/", "")
LIMITS: tuple[limits.Limit, ...] = (
    ("its ViT is all that vitral writes for it", lambda it: type(it) is not ViTConfig),
    (
        "it learns one position a patch, or has fixed ones",
        lambda it: it.position not in ("learned_1d", "sincos_2d"),
    ),
    *flax_names.LIMITS,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether the first block has this project's names, no posembed_input."""
    return _style(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    style = _style(opened)
    assert style is not None
    facts = flax_names.read_vit_fields(opened, style)
    config = ViTConfig(**facts, no_embed_class=facts["class_token"])
    rules = flax_names.vit_mappings(config, style)
    preprocess = Preprocess(image_size=config.image_hw)
    return opened.source(LAYOUT.title, config, rules, preprocess)


def mappings(config: ViTConfig) -> list[TensorMapping]:
    return flax_names.vit_mappings(config, flax_names.BIG_VISION)


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    return LayoutOutput(notes=flax_names.numerics(spec.config))


def _style(opened: LayoutInput) -> flax_names.Style | None:
    for prefix in PREFIXES:
        present = f"{prefix}{FIRST}" in opened.file
        if present and f"{prefix}{flax_names.OLD.pos_embed}" not in opened.file:
            return replace(flax_names.BIG_VISION, prefix=prefix)
    return None


LAYOUT = Layout(
    name="big_vision",
    title="big_vision",
    container="npz",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    class_token_row="without",
)
