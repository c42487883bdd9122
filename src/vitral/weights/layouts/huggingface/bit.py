"""Hugging Face's BiT: config.json, model.safetensors, preprocessor_config.json.

`BitForImageClassification`, or `BitModel` where there is no head.
"""

from functools import partial
from typing import Any

from vitral.errors import WeightsError
from vitral.layers.bottleneck import total_stride
from vitral.models import ResNetConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits, resnet_shapes
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.config import head_fields, read_classes
from vitral.weights.layouts.huggingface.fields import check_config, read_processor
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.problem_type import read_problem_type
from vitral.weights.layouts.resnet_shapes import Numerics
from vitral.weights.mapping import TensorMapping, copy, copy_layer, reshape

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
LIMITS: tuple[limits.Limit, ...] = (
    ("it is for the ResNets of BiT alone", lambda it: not isinstance(it, ResNetConfig)),
    *resnet_shapes.structure_limits("fixed", None),
    resnet_shapes.ROUNDS_WIDTHS,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether the first convolution has Hugging Face's name."""
    return _prefix(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    """Read the BiT ResNet that the tensors and config.json describe."""
    prefix = _prefix(opened)
    assert prefix is not None
    check_config(opened)
    pattern = rf"{prefix}encoder\.stages\.(\d+)\.layers\.(\d+)\."
    units = resnet_shapes.count_units(opened, pattern, 0)
    _refuse_others(opened, units)
    stem = f"{prefix}{STEM}"
    width, chans, *_ = opened.shape(stem, 4)
    groups = opened.config_json.get("num_groups", resnet_shapes.GROUPS)
    processor = read_processor(opened)
    crop = preprocessor.sides(processor.get("crop_size"))
    crop = crop or preprocessor.sides(processor.get("size"))
    config = ResNetConfig(
        image_size=resnet_shapes.infer_image_size(opened, units, crop),
        in_chans=chans,
        num_classes=opened.rows(f"{HEAD}.bias", 1),
        units=units,
        std_eps=NUMERICS.std_eps,
        **resnet_shapes.read_width_fields(opened, stem, width, groups),
    )
    return opened.source(
        LAYOUT.title,
        config,
        _mappings(config, prefix),
        preprocessor.read(opened, "bit", config.image_hw),
        classes=read_classes(opened.config_json, config.num_classes),
        extra=read_problem_type(opened),
    )


def mappings(config: ResNetConfig) -> list[TensorMapping]:
    return _mappings(config, PREFIXES[0] if config.num_classes else PREFIXES[1])


def make_output(spec: ModelSpec[ResNetConfig]) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    notes = [*resnet_shapes.differences(config, NUMERICS, "Hugging Face")]
    architecture = "BitForImageClassification" if config.num_classes else "BitModel"
    fields: dict[str, Any] = {
        "architectures": [architecture],
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
        "config.json": fields | head_fields(spec),
        "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
    }
    return LayoutOutput(sidecar_files=sidecar_files, notes=tuple(notes))


def _mappings(config: ResNetConfig, prefix: str) -> list[TensorMapping]:
    rules = [copy("stem.conv.weight", f"{prefix}{STEM}")]
    for stage, count in enumerate(config.units):
        for unit in range(count):
            ours = f"stages.{stage}.blocks.{unit}"
            theirs = f"{prefix}encoder.stages.{stage}.layers.{unit}"
            convolutions = ["conv1", "conv2", "conv3"]
            norms = ["norm1", "norm2", "norm3"]
            projection = ["downsample.conv"] if unit == 0 else []
            for part in (*convolutions, *norms, *projection):
                bias = part in norms
                rules += copy_layer(f"{ours}.{part}", f"{theirs}.{part}", bias=bias)
    rules += copy_layer("norm", f"{prefix}norm")
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


LAYOUT = Layout(
    name="huggingface_bit",
    title="Hugging Face BiT",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
