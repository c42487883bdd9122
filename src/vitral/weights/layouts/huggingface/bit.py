"""Hugging Face's BiT: config.json, model.safetensors, preprocessor_config.json.

`BitForImageClassification`, or `BitModel` where there is no head.
"""

from collections.abc import Mapping
from typing import Any

from vitral.errors import WeightsError
from vitral.layers.bottleneck import total_stride
from vitral.models import ModelConfig, ResNetConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.infer_config import require_shape, rows_or_zero
from vitral.weights.layouts import resnet_shapes
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.config import label_fields
from vitral.weights.layouts.huggingface.vit import read_classes
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.resnet_shapes import (
    Numerics,
    count_units,
    infer_image_size,
    read_width_fields,
)
from vitral.weights.mapping import TensorMapping, copy, reshape

STEM = "embedder.convolution.weight"
HEAD = "classifier.1"
PREFIXES = ("bit.", "")
"""Prefix of every name but the head's: with a head, and without."""
NUMERICS = Numerics(group_norm_eps=1e-5, std_eps=1e-8, std_eps_at="variance")
EXPECTED_FIELDS: dict[str, tuple[Any, str]] = {
    "layer_type": ("preactivation", "units that are activated after their sum"),
    "global_padding": (None, "another padding of the convolutions"),
    "embedding_dynamic_padding": (False, "another padding of the maximum at the stem"),
    "hidden_act": ("relu", "another activation"),
}
"""Fields of config.json that decide the function: BiT's value, and what others mean."""


def detect(opened: LayoutInput) -> bool:
    """Return whether the first convolution has Hugging Face's name."""
    return _prefix(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    """Read the BiT ResNet that the tensors and config.json describe.

    Raises:
        WeightsError: config.json names a function that is not BiT's.
    """
    prefix = _prefix(opened)
    assert prefix is not None
    notes, config_json, file = list(opened.notes), opened.config_json, opened.file
    units = count_units(file, rf"{prefix}encoder\.stages\.(\d+)\.layers\.(\d+)\.", 0)
    _refuse_others(opened, units)
    width, chans, *_ = require_shape(file, f"{prefix}{STEM}", 4)
    groups = config_json.get("num_groups", resnet_shapes.GROUPS)
    crop = _sides(opened.processor_json.get("crop_size")) or _sides(
        opened.processor_json.get("size")
    )
    config = ResNetConfig(
        image_size=infer_image_size(opened, units, crop, notes),
        in_chans=chans,
        num_classes=rows_or_zero(file, f"{HEAD}.bias", 1),
        units=units,
        std_eps=NUMERICS.std_eps,
        **read_width_fields(file, f"{prefix}{STEM}", width, groups),
    )
    return WeightsSource(
        layout=LAYOUT.title,
        file=file,
        config=config,
        mappings=tuple(_mappings(config, prefix)),
        preprocess=preprocessor.read(
            opened.processor_json, "bit", config.image_hw, notes
        ),
        classes=read_classes(config_json, config.num_classes),
        notes=tuple(notes),
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, ResNetConfig)
    return _mappings(config, PREFIXES[0] if config.num_classes else PREFIXES[1])


def unsupported_reason(config: ModelConfig) -> str:
    if not isinstance(config, ResNetConfig):
        return "it is for the ResNets of BiT alone"
    return resnet_shapes.unsupported_structure(
        config, "fixed", None
    ) or resnet_shapes.unsupported_rounding(config)


def make_output(spec: ModelSpec) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    assert isinstance(config, ResNetConfig)
    notes = [*resnet_shapes.differences(config, NUMERICS, "Hugging Face")]
    fields: dict[str, Any] = {
        "architectures": [
            "BitForImageClassification" if config.num_classes else "BitModel"
        ],
        "model_type": "bit",
        "num_channels": config.in_chans,
        "embedding_size": config.width,
        "hidden_sizes": [4 * config.width * 2**i for i, _ in enumerate(config.units)],
        "depths": list(config.units),
        # Its norm and its head ignore the factor: full widths are written.
        "width_factor": 1,
        "num_groups": config.num_groups,
        "output_stride": max(32, total_stride(config.units)),
        **{name: value for name, (value, _) in EXPECTED_FIELDS.items()},
    }
    sidecar_files = {
        "config.json": fields | label_fields(config, spec.classes),
        "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
    }
    return LayoutOutput(sidecar_files=sidecar_files, notes=tuple(notes))


def _mappings(config: ResNetConfig, prefix: str) -> list[TensorMapping]:
    rules = [copy("stem.conv.weight", f"{prefix}{STEM}")]
    for stage, count in enumerate(config.units):
        for unit in range(count):
            ours = f"stages.{stage}.blocks.{unit}"
            theirs = f"{prefix}encoder.stages.{stage}.layers.{unit}"
            parts = ["conv1.weight", "conv2.weight", "conv3.weight"]
            parts += [
                f"norm{n}.{parameter}"
                for n in "123"
                for parameter in ("weight", "bias")
            ]
            parts += ["downsample.conv.weight"] if unit == 0 else []
            rules += [copy(f"{ours}.{part}", f"{theirs}.{part}") for part in parts]
    rules += [
        copy(f"norm.{parameter}", f"{prefix}norm.{parameter}")
        for parameter in ("weight", "bias")
    ]
    if config.num_classes:
        flat = (config.num_classes, config.pooled_dim)
        head = reshape("head.fc.weight", f"{HEAD}.weight", (*flat, 1, 1), flat)
        rules += [head, copy("head.fc.bias", f"{HEAD}.bias")]
    return rules


def _prefix(opened: LayoutInput) -> str | None:
    for prefix in PREFIXES:
        names = (f"{prefix}{STEM}", f"{prefix}encoder.stages.0.layers.0.conv1.weight")
        if all(name in opened.file for name in names):
            return prefix
    return None


def _refuse_others(opened: LayoutInput, units: tuple[int, ...]) -> None:
    """Refuse settings of config.json that change the function of the same tensors."""
    config_json = opened.config_json
    problems = [
        f"{name} {config_json[name]!r}: {what}"
        for name, (expected, what) in EXPECTED_FIELDS.items()
        if config_json.get(name, expected) != expected
    ]
    stride, expected = total_stride(units), config_json.get("output_stride", 32)
    if expected < stride:
        problems.append(f"output_stride {expected}: dilated convolutions")
    if problems:
        raise WeightsError(
            f"{opened.path.with_name('config.json')} has {problems[0]}. vitral has the "
            "BiT of the paper only, whose units are activated first, padded with zeros "
            f"on both sides alike, with strides up to {stride}. Use other weights."
        )


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, Mapping):
        return (int(size["height"]), int(size["width"])) if "height" in size else None
    return (size, size) if isinstance(size, int) else None


LAYOUT = Layout(
    name="huggingface_bit",
    title="Hugging Face BiT",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
)
