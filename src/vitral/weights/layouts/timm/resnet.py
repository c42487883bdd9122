"""timm's `ResNetV2` as BiT uses it: its settings, and timm's arguments for it."""

from typing import Any

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import ResNetConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import TensorFile
from vitral.weights.layouts import resnet_shapes
from vitral.weights.layouts.resnet_shapes import Numerics
from vitral.weights.layouts.timm import settings

STEM = "stem.conv.weight"
NUMERICS = Numerics(group_norm_eps=1e-5, std_eps=1e-8, std_eps_at="variance")
ARCHITECTURES = {
    (3, 4, 6, 3): ("resnetv2_50x1_bit", 1),
    (3, 4, 23, 3): ("resnetv2_101x1_bit", 1),
    (3, 8, 36, 3): ("resnetv2_152x2_bit", 2),
}
"""Name and width factor by units. timm's functions fix both. The widths that the factor
multiplies are arguments, and fewer of them make fewer stages."""


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names of a timm ResNet with one stem convolution."""
    return STEM in opened.file and "stages.0.blocks.0.conv1.weight" in opened.file


def read_config(opened: LayoutInput) -> ResNetConfig:
    """Infer the settings of the BiT ResNet."""
    _refuse_others(opened.file)
    width, chans, *_ = opened.shape(STEM, 4)
    units = resnet_shapes.count_units(opened, r"stages\.(\d+)\.blocks\.(\d+)\.", 0)
    given = settings.read_arguments(opened, settings.RESNET)
    actual = {"in_chans": chans, "num_classes": opened.rows("head.fc.bias", 1)}
    settings.check_arguments(opened, given, actual)
    size = settings.read_pretrained(opened).get("input_size")
    declared = None if size is None else (int(size[-2]), int(size[-1]))
    return ResNetConfig(
        image_size=resnet_shapes.infer_image_size(opened, units, declared),
        in_chans=chans,
        num_classes=opened.rows("head.fc.bias", 1),
        units=units,
        std_eps=NUMERICS.std_eps,
        **resnet_shapes.read_width_fields(opened, STEM, width),
    )


def default_preprocess(config: ResNetConfig, notes: list[str]) -> Preprocess:
    """Return the pre-processing of timm's published BiT models without config.json."""
    notes.append(
        "pixel mean and deviation of 0.5 and a crop of 0.875 of the image assumed, as "
        "for timm's BiT at 224 pixels: the file does not say"
    )
    return Preprocess(
        image_size=config.image_hw, resize="crop", crop_fraction=0.875, antialias=True
    )


def find_timm_model(config: ResNetConfig) -> tuple[str, dict[str, Any]] | None:
    """Return a function of timm and its arguments; None where none has these units."""
    for units, (name, factor) in ARCHITECTURES.items():
        stages = len(config.units)
        if config.units == units[:stages] and config.width % (8 * factor) == 0:
            base = config.width // factor
            # As many stages are made as there are numbers here.
            channels = [4 * base * 2**stage for stage in range(stages)]
            arguments = {"stem_chs": base, "channels": channels}
            return name, {**arguments, "in_chans": config.in_chans}
    return None


def _refuse_others(file: TensorFile) -> None:
    """Refuse timm's other ResNets with the same names."""
    unit = "stages.0.blocks.0"
    reasons = {
        "a ResNet of units that are activated after their sum; such a one is read as "
        "the backbone of a hybrid only": "stem.norm.weight" in file,
        "a ResNet of BatchNorm": f"{unit}.norm1.running_mean" in file,
        "a ResNet of basic blocks": f"{unit}.conv3.weight" not in file,
    }
    for what, holds in reasons.items():
        if holds:
            raise WeightsError(
                f"{file.path} holds {what}. vitral has BiT's: units of GroupNorm, "
                "three weight-standardised convolutions and activations before them. "
                "Give the weights of a resnetv2_*_bit."
            )
