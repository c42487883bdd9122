"""State dicts of `SimpleViT` in lucidrains' vit-pytorch.

Fixed sines and cosines, mean pooling, no bias in the attention (arXiv 2205.01580). The
file has no positions, so its grid is the caller's to give.
"""

from vitral.layers import Grid
from vitral.models import ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import Opened, Source
from vitral.weights.infer_config import rows_or_zero
from vitral.weights.layouts.layout import Held, Layout, Written
from vitral.weights.layouts.lucidrains import vit_pytorch
from vitral.weights.mapping import Rule

HEAD = "linear_head"


def detect(opened: Opened) -> bool:
    """Whether the blocks are vit-pytorch's and the head is SimpleViT's."""
    return vit_pytorch.QKV in opened.file and f"{HEAD}.weight" in opened.file


def read(opened: Opened) -> Source:
    """The Vision Transformer that the tensors describe."""
    notes = list(opened.notes)
    facts = vit_pytorch.shared_facts(opened, notes)
    patch = facts["patch_size"]
    grid = opened.grid or Grid(max(224 // patch[0], 1), max(224 // patch[1], 1))
    if opened.grid is None:
        notes.append(
            f"{grid.rows} x {grid.columns} patches assumed: the positions are fixed "
            "and not in the file, and any image size may be given"
        )
    config = ViTConfig(
        **facts,
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        num_classes=rows_or_zero(opened.file, f"{HEAD}.bias", 1),
        class_token=False,
        global_pool="avg",
        position="sincos_2d",
        proj_bias=False,
    )
    return Source(
        layout=LAYOUT.title,
        file=opened.file,
        config=config,
        rules=tuple(rules(config)),
        preprocess=vit_pytorch.preprocess(config, notes),
        notes=tuple(notes),
    )


def rules(config: ModelConfig) -> list[Rule]:
    """Every tensor under this project's name."""
    assert isinstance(config, ViTConfig)
    found = vit_pytorch.block_rules(config, "", "to_out", "3")
    found += vit_pytorch.pair("norm", "transformer.norm")
    return found + vit_pytorch.pair("head", HEAD)


def refuses(config: ModelConfig) -> str:
    """Why that code cannot be this model; empty if it can."""
    if reason := vit_pytorch.shared_refuses(config):
        return reason
    assert isinstance(config, ViTConfig)
    reasons = {
        "its positions are fixed sines and cosines": config.position != "sincos_2d",
        "it pools the mean, without a class token": (
            config.class_token or config.global_pool != "avg"
        ),
        "its output projection has no bias": config.proj_bias,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def describe(held: Held) -> Written:
    assert isinstance(held.config, ViTConfig)
    return Written(notes=vit_pytorch.numerics(held.config))


LAYOUT = Layout(
    name="simple_vit",
    title="vit-pytorch SimpleViT",
    container="safetensors",
    detect=detect,
    read=read,
    rules=rules,
    refuses=refuses,
    describe=describe,
)
