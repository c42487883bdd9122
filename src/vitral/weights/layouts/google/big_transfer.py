""".npz files of google-research/big_transfer: BiT (arXiv 1912.11370).

Stages and units are counted from 1, units with two digits. The names come from the
original TensorFlow models.
"""

from functools import partial

from vitral.data import Preprocess
from vitral.models import ResNetConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits, resnet_shapes
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.resnet_shapes import Numerics
from vitral.weights.mapping import TensorMapping, convolution, copy

CONV = "standardized_conv2d/kernel"
ROOT = f"resnet/root_block/{CONV}"
NUMERICS = Numerics(group_norm_eps=1e-5, std_eps=1e-10, std_eps_at="variance")
LIMITS: tuple[limits.Limit, ...] = (
    ("its ResNets are all that it has", lambda it: not isinstance(it, ResNetConfig)),
    *resnet_shapes.structure_limits("fixed"),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether the first convolution has this project's name."""
    return ROOT in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    _, _, chans, width = opened.shape(ROOT, 4)
    units = resnet_shapes.count_units(opened, r"resnet/block(\d+)/unit(\d+)/", 1)
    config = ResNetConfig(
        image_size=resnet_shapes.infer_image_size(opened, units),
        in_chans=chans,
        num_classes=opened.rows("resnet/head/conv2d/bias", 1),
        units=units,
        **resnet_shapes.read_width_fields(opened, ROOT, width),
    )
    # Evaluation of the project: resized directly to the size, x 2 - 1.
    preprocess = Preprocess(image_size=config.image_hw)
    return opened.source(LAYOUT.title, config, mappings(config), preprocess)


def mappings(config: ResNetConfig) -> list[TensorMapping]:
    rules = [convolution("stem.conv.weight", ROOT)]
    for stage, count in enumerate(config.units):
        for unit in range(count):
            ours = f"stages.{stage}.blocks.{unit}"
            theirs = f"resnet/block{stage + 1}/unit{unit + 1:02d}"
            for part, letter in enumerate("abc", start=1):
                weight = f"{ours}.conv{part}.weight"
                rules.append(convolution(weight, f"{theirs}/{letter}/{CONV}"))
                rules += _norm(f"{ours}.norm{part}", f"{theirs}/{letter}")
        rules.append(
            convolution(
                f"stages.{stage}.blocks.0.downsample.conv.weight",
                f"resnet/block{stage + 1}/unit01/a/proj/{CONV}",
            )
        )
    rules += _norm("norm", "resnet")
    if config.num_classes:
        rules.append(convolution("head.fc.weight", "resnet/head/conv2d/kernel"))
        rules.append(copy("head.fc.bias", "resnet/head/conv2d/bias"))
    return rules


def make_output(spec: ModelSpec[ResNetConfig]) -> LayoutOutput:
    notes = resnet_shapes.differences(spec.config, NUMERICS, "the official code")
    return LayoutOutput(notes=notes)


def _norm(ours: str, theirs: str) -> list[TensorMapping]:
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
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
