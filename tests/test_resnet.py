"""BiT: counts, equality with timm and Hugging Face, and the model contract."""

import re
from functools import partial

import pytest
import timm
import torch
from timm.layers import GroupNormAct, StdConv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BitConfig, BitForImageClassification

import vitral.models as models
from helpers import (
    centre_biases,
    count_parameters,
    images,
    on_meta,
    randomise,
    relative_difference,
)
from vitral.errors import ConfigError
from vitral.models.resnet import NAMES, ResNet, ResNetConfig

COUNTS = {
    "bit_r26x1": 15_987_496,
    "bit_r50x1": 25_549_352,
    "bit_r50x2": 97_988_712,
    "bit_r50x3": 217_319_080,
    "bit_r101x1": 44_541_480,
    "bit_r101x3": 387_934_888,
    "bit_r152x1": 60_185_128,
    "bit_r152x2": 236_335_208,
    "bit_r152x4": 936_533_224,
    "bit_r200x3": 568_633_000,
}
TINY = {
    "image_size": (64, 96),
    "units": (2, 1, 3),
    "stem_width": 8,
    "num_groups": 4,
    "num_classes": 7,
}


def tiny(**changes) -> ResNet:
    model = ResNet(ResNetConfig(**{**TINY, **changes})).double()
    randomise(model)
    centre_biases(model)
    return model.eval()


def test_counts():
    assert {name: count_parameters(name) for name in NAMES} == COUNTS
    assert count_parameters("bit_r50x1", num_classes=21843) == 68_256_659
    assert count_parameters("bit_r152x4", num_classes=21843) == 1_107_299_923
    assert (
        count_parameters("bit_r50x1", num_classes=0) == COUNTS["bit_r50x1"] - 2_049_000
    )


@pytest.mark.parametrize("name", ["50x1", "50x3", "101x1", "101x3", "152x2", "152x4"])
def test_names_and_shapes_are_those_of_timm(name):
    with torch.device("meta"):
        twin = timm.create_model(f"resnetv2_{name}_bit")
    theirs = {key: value.shape for key, value in twin.state_dict().items()}
    ours = on_meta(f"bit_r{name}").state_dict()
    assert {key: value.shape for key, value in ours.items()} == theirs
    assert ours["head.fc.weight"].ndim == 4


def twin_of(model: ResNet) -> nn.Module:
    config = model.config
    width = config.width
    twin = ResNetV2(
        list(config.units),
        channels=tuple(4 * width * 2**stage for stage in range(len(config.units))),
        num_classes=config.num_classes,
        in_chans=config.in_chans,
        stem_chs=width,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=config.std_eps),
        norm_layer=partial(
            GroupNormAct, num_groups=config.num_groups, eps=config.group_norm_eps
        ),
    )
    twin = twin.to(model.norm.weight).eval()
    twin.load_state_dict(model.state_dict())
    return twin


SIZES = [(64, 96), (128, 96), (75, 50), (33, 129)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("changes", [{}, {"width_factor": 2, "std_eps": 1e-3}])
def test_logits_and_gradients_equal_timm(size, changes):
    model = tiny(**changes)
    twin = twin_of(model)
    x = images(2, *size)
    assert relative_difference(model(x), twin(x)) < 1e-10
    weights = torch.randn(2, 7, generator=torch.Generator().manual_seed(4)).double()
    for net in (model, twin):
        (net(x) * weights).sum().backward()
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert relative_difference(parameter.grad, theirs[name].grad) < 1e-10, name
    single, other = model.float(), twin.float()
    assert relative_difference(single(x.float()), other(x.float())) < 1e-5


@pytest.mark.parametrize("size", [(96, 96), (160, 96), (70, 101)])
def test_r50_equals_timm(size):
    model = models.create("resnetv2_50x1_bit.goog_in21k", num_classes=7)
    twin = timm.create_model("resnetv2_50x1_bit", num_classes=7).eval()
    randomise(twin)
    model.load_state_dict(twin.state_dict())
    x = images(1, *size)
    with torch.no_grad():
        assert relative_difference(model(x.float()), twin(x.float())) < 1e-5
        assert relative_difference(model.double()(x), twin.double()(x)) < 1e-10


def hugging_face_names(state):
    """The state dict of a ResNet by the names that Hugging Face uses."""
    renamed = {}
    for name, tensor in state.items():
        new = name.replace("stem.conv", "bit.embedder.convolution")
        new = re.sub(r"^stages\.(\d+)\.blocks", r"bit.encoder.stages.\1.layers", new)
        new = re.sub(r"^norm\.", "bit.norm.", new)
        if name.startswith("head.fc"):
            new, tensor = name.replace("head.fc", "classifier.1"), tensor.squeeze()
        renamed[new] = tensor
    return renamed


@pytest.mark.parametrize("size", [(64, 96), (128, 80)])
def test_logits_equal_hugging_face(size):
    model = tiny(units=(2, 1, 3, 1), std_eps=1e-8)
    config = BitConfig(
        depths=[2, 1, 3, 1],
        embedding_size=8,
        hidden_sizes=[32, 64, 128, 256],
        num_groups=4,
        num_labels=7,
    )
    twin = BitForImageClassification(config).double().eval()
    twin.load_state_dict(hugging_face_names(model.state_dict()))
    x = images(2, *size)
    with torch.no_grad():
        assert relative_difference(model(x), twin(x).logits) < 1e-10


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"padding": "same", "std_eps_at": "deviation", "std_eps": 1e-5},
        {"in_chans": 5, "units": (1,), "width_factor": 3},
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_the_model_contract(changes, size):
    model = tiny(**changes)
    x = images(2, *size, model.config.in_chans)
    logits = model(x)
    assert logits.shape == (2, 7)
    features = model.forward_features(x)
    stride = 4 * 2 ** (len(model.config.units) - 1)
    grid = tuple(-(-side // stride) for side in size)
    assert features.cls is None
    assert features.mask is None
    assert features.patches.shape == (2, *grid, model.config.pooled_dim)
    assert features.patches.min() == 0
    assert torch.equal(model.forward_head(features), logits)
    assert ResNetConfig(**{**TINY, **changes, "image_size": size}).grid == grid
    pooled = model.forward_pool(features)
    assert torch.allclose(pooled, features.patches.flatten(1, 2).mean(1), atol=1e-12)
    assert model.head(pooled).shape == (2, 7)


def test_the_map_keeps_the_geometry_of_the_image():
    model = tiny()
    x = images(1, 64, 96)
    before = model.forward_features(x).patches
    x[:, :, :8, 80:] += 1
    change = (model.forward_features(x).patches - before).abs().sum(-1)[0]
    assert change.shape == (4, 6)
    assert change.argmax() == 5


@pytest.mark.parametrize("cut", range(7))
def test_encode_in_two_parts(cut):
    model = tiny()
    x = images(2, 75, 50)
    start = model.embed(x)
    assert (start.rows, start.columns) == (19, 13)
    middle = model.forward_blocks(start, 0, cut)
    stride = 4 if cut < 3 else 8 if cut == 3 else 16
    assert (middle.rows, middle.columns) == (-(-75 // stride), -(-50 // stride))
    assert torch.equal(model.forward_tokens(middle, cut), model(x))
    copied = middle._replace(x=middle.x.contiguous())
    assert torch.allclose(model.forward_tokens(copied, cut), model(x), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(dtype):
    model = tiny().float()
    x = images(2, 64, 96).float()
    exact = model(x)
    with torch.autocast("cpu", dtype):
        mixed = model(x)
    assert mixed.dtype == dtype
    assert relative_difference(mixed.float(), exact) < 0.1
    assert relative_difference(model.to(dtype)(x.to(dtype)).float(), exact) < 0.1


def test_layers_and_freezing():
    model = tiny()
    layers = {name: model.layer_index(name) for name, _ in model.named_parameters()}
    assert layers["stem.conv.weight"] == 0
    assert layers["stages.0.blocks.0.downsample.conv.weight"] == 1
    assert layers["stages.0.blocks.1.conv2.weight"] == 2
    assert layers["stages.1.blocks.0.norm1.weight"] == 3
    assert layers["stages.2.blocks.2.norm3.bias"] == 6 == model.config.num_blocks
    assert layers["norm.weight"] == layers["head.fc.weight"] == 7
    model.freeze(3)
    model.train()
    model(images(2, 64, 96)).square().sum().backward()
    learning = {n for n, p in model.named_parameters() if p.grad is not None}
    assert {layers[name] for name in learning} == {4, 5, 6, 7}
    model.freeze(6)
    learns = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learns == {"head.fc.weight", "head.fc.bias"}
    with pytest.raises(ConfigError, match=r"between 0 .the stem. and 6 .all blo"):
        model.freeze(7)


def test_fresh_weights():
    torch.manual_seed(0)
    model = models.create("bit_r26x1", num_classes=7, head_bias=-3.0)
    x = images(1, 40, 56).float()
    assert torch.equal(model(x), torch.full((1, 7), -3.0))
    conv = model.stages[3].blocks[1].conv2.weight
    assert conv.std().item() == pytest.approx((512 * 9) ** -0.5, rel=0.01)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 8 * 3 + 1
    for norm in norms:
        assert (norm.num_groups, norm.eps) == (32, 1e-5)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert norm.bias.abs().max() == 0
    assert [name for name, _ in model.stem.named_parameters()] == ["conv.weight"]
    model.double().reset_head(3)
    assert model.head.fc.weight.dtype == torch.float64
    assert torch.equal(model(x.double()), torch.full((1, 3), -3.0).double())
    model.reset_head(0)
    assert model(x.double()).shape == (1, 2048)


@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
@pytest.mark.parametrize("changes", [{}, {"width_factor": 2, "in_chans": 5}])
def test_macs_agree_with_a_counter(size, changes):
    model = tiny(**changes)
    with FlopCounterMode(display=False) as counter:
        model(images(1, *size, model.config.in_chans))
    assert 2 * model.config.macs(size) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "gmacs", "digits"),
    [("50x1", 4.23, 2), ("101x1", 8.04, 2), ("152x2", 46.95, 2), ("152x4", 186.9, 1)],
)
def test_macs_of_timms_table(name, gmacs, digits):
    """timm's table also counts 5 per value that is normalised and 4 per weight."""
    model = on_meta(f"bit_r{name}")
    values = []
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(
                lambda m, args, out: values.append(out.numel())
            )
    model(torch.zeros(1, 3, 224, 224, device="meta"))
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 4)
    weights -= model.head.fc.weight.numel()
    counted = model.config.macs() + 5 * sum(values) + 4 * weights
    assert counted / 1e9 == pytest.approx(gmacs, abs=0.51 * 10**-digits)


@pytest.mark.parametrize(
    ("foreign", "ours", "fields"),
    [
        ("resnetv2_50x1_bit", "bit_r50x1", {"std_eps": 1e-8, "image_size": 224}),
        ("resnetv2_101x3_bit.goog_in21k", "bit_r101x3", {"image_size": 224}),
        ("resnetv2_50x3_bit.goog_in21k_ft_in1k", "bit_r50x3", {"image_size": 448}),
        ("resnetv2_152x4_bit.goog_in21k_ft_in1k", "bit_r152x4", {"image_size": 480}),
        (
            "resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384",
            "bit_r152x2",
            {"image_size": 384, "std_eps_at": "variance", "group_norm_eps": 1e-5},
        ),
        ("google/bit-50", "bit_r50x1", {"std_eps": 1e-8, "padding": "fixed"}),
        ("bit_r101x2", "bit_r101x2", {"std_eps": 1e-10, "width_factor": 2}),
    ],
)
def test_names_of_others(foreign, ours, fields):
    config = models.get_config(foreign)
    assert {name: getattr(config, name) for name in fields} == fields
    assert models.get_model_name(config) == ours
    assert models.get_family_name(config) == "resnet"


def test_every_name_is_called_by_its_own():
    assert {name: models.get_model_name(models.get_config(name)) for name in NAMES} == {
        name: name for name in NAMES
    }
    assert models.get_model_name(ResNetConfig(**TINY)) == ""
    assert models.get_model_name(ResNetConfig(stem_width=32)) == ""


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: tiny()(images(), torch.ones(2, 3, 5, dtype=torch.bool)),
            "`patch_mask` cannot be used with a ResNet: its convolutions look",
        ),
        (lambda: tiny()(images(channels=4)), "takes images of 3 channels: got 4"),
        (lambda: tiny(units=()), "`units` must have at least one stage: got none"),
        (lambda: tiny(units=(2, 0)), "`units` must lie between 1 and 1024: got 0"),
        (lambda: tiny(num_groups=5), "multiple of `num_groups`: got 8 and 5"),
        (lambda: models.create("resnetv2_50", num_classes=3), "Unknown model"),
        (lambda: models.create("bit_r51x1"), "Unknown model `bit_r51x1`. The nearest"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        call()
