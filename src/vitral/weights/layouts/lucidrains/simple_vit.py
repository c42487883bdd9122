"""State dicts of `SimpleViT` in lucidrains' vit-pytorch.

Fixed sines and cosines, mean pooling, no bias in the attention (arXiv 2205.01580). The
file has no positions, so the caller gives its grid.
"""

from functools import partial

from vitral.layers import Grid
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.lucidrains import vit_pytorch
from vitral.weights.mapping import TensorMapping, copy_layer

HEAD = "linear_head"
LIMITS: tuple[limits.Limit, ...] = (
    *vit_pytorch.SHARED_LIMITS,
    (
        "its positions are fixed sines and cosines",
        lambda it: it.position != "sincos_2d",
    ),
    (
        "it pools the mean, without a class token",
        lambda it: it.class_token or it.global_pool != "avg",
    ),
    ("its output projection has no bias", lambda it: it.proj_bias),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether the blocks are vit-pytorch's and the head is SimpleViT's."""
    return vit_pytorch.QKV in opened.file and f"{HEAD}.weight" in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    facts = vit_pytorch.read_shared_fields(opened)
    patch = facts["patch_size"]
    grid = opened.grid or Grid(max(224 // patch[0], 1), max(224 // patch[1], 1))
    if opened.grid is None:
        opened.notes.append(
            f"{grid.rows} x {grid.columns} patches assumed: the positions are fixed "
            "and not in the file, and any image size may be given"
        )
    config = ViTConfig(
        **facts,
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        num_classes=opened.rows(f"{HEAD}.bias", 1),
        class_token=False,
        global_pool="avg",
        position="sincos_2d",
        proj_bias=False,
    )
    preprocess = vit_pytorch.default_preprocess(config, opened.notes)
    return opened.source(LAYOUT.title, config, mappings(config), preprocess)


def mappings(config: ViTConfig) -> list[TensorMapping]:
    rules = vit_pytorch.block_mappings(config, "", "to_out", "3")
    rules += copy_layer("norm", "transformer.norm")
    return rules + copy_layer("head", HEAD)


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    return LayoutOutput(notes=vit_pytorch.numerics(spec.config))


LAYOUT = Layout(
    name="simple_vit",
    title="vit-pytorch SimpleViT",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    same_names="",
)
