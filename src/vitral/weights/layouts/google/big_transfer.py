"""The `.npz` files of google-research/big_transfer: BiT (arXiv 1912.11370).

Stages and units are counted from 1, the units with two digits. The names are those of
the TensorFlow models that the weights come from.
"""

from vitral.data import Preprocess
from vitral.models import ModelConfig, ResNetConfig
from vitral.weights.checkpoint_facts import Opened, Source
from vitral.weights.infer_config import rows_or_zero, shape_of
from vitral.weights.layouts import resnet_shapes
from vitral.weights.layouts.layout import Held, Layout, Written
from vitral.weights.layouts.resnet_shapes import (
    Numerics,
    image_size_of,
    units_of,
    width_facts,
)
from vitral.weights.mapping import Rule, convolution, copy

CONV = "standardized_conv2d/kernel"
ROOT = f"resnet/root_block/{CONV}"
NUMERICS = Numerics(group_norm_eps=1e-5, std_eps=1e-10, std_eps_at="variance")


def detect(opened: Opened) -> bool:
    """Whether the first convolution has this project's name."""
    return ROOT in opened.file


def read(opened: Opened) -> Source:
    """The BiT ResNet that the arrays describe."""
    notes = list(opened.notes)
    _, _, chans, width = shape_of(opened.file, ROOT, 4)
    units = units_of(opened.file, r"resnet/block(\d+)/unit(\d+)/", 1)
    config = ResNetConfig(
        image_size=image_size_of(opened, units, None, notes),
        in_chans=chans,
        num_classes=rows_or_zero(opened.file, "resnet/head/conv2d/bias", 1),
        units=units,
        **width_facts(opened.file, ROOT, width),
    )
    return Source(
        layout=LAYOUT.title,
        file=opened.file,
        config=config,
        rules=tuple(rules(config)),
        # Evaluation of the project: resized directly to the size, x 2 - 1.
        preprocess=Preprocess(image_size=config.image_hw),
        notes=tuple(notes),
    )


def rules(config: ModelConfig) -> list[Rule]:
    """Every tensor under this project's name."""
    assert isinstance(config, ResNetConfig)
    found = [convolution("stem.conv.weight", ROOT)]
    for stage, count in enumerate(config.units):
        for unit in range(count):
            ours = f"stages.{stage}.blocks.{unit}"
            theirs = f"resnet/block{stage + 1}/unit{unit + 1:02d}"
            for part, letter in enumerate("abc", start=1):
                weight = f"{ours}.conv{part}.weight"
                found.append(convolution(weight, f"{theirs}/{letter}/{CONV}"))
                found += _norm(f"{ours}.norm{part}", f"{theirs}/{letter}")
        found.append(
            convolution(
                f"stages.{stage}.blocks.0.downsample.conv.weight",
                f"resnet/block{stage + 1}/unit01/a/proj/{CONV}",
            )
        )
    found += _norm("norm", "resnet")
    if config.num_classes:
        found.append(convolution("head.fc.weight", "resnet/head/conv2d/kernel"))
        found.append(copy("head.fc.bias", "resnet/head/conv2d/bias"))
    return found


def refuses(config: ModelConfig) -> str:
    """Why that code cannot be this model; empty if it can."""
    if not isinstance(config, ResNetConfig):
        return "its ResNets are all that it has"
    return resnet_shapes.structure(config, "fixed")


def describe(held: Held) -> Written:
    assert isinstance(held.config, ResNetConfig)
    notes = resnet_shapes.differences(held.config, NUMERICS, "the official code")
    return Written(notes=notes)


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [
        copy(f"{ours}.weight", f"{theirs}/group_norm/gamma"),
        copy(f"{ours}.bias", f"{theirs}/group_norm/beta"),
    ]


LAYOUT = Layout(
    name="bit",
    title="BiT",
    container="npz",
    detect=detect,
    read=read,
    rules=rules,
    refuses=refuses,
    describe=describe,
)
