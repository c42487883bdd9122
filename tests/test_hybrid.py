"""The hybrids: counts, grids, equality with timm, and the model contract."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import GroupNormAct, HybridEmbed, StdConv2d, StdConv2dSame
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
from vitral.layers.bottleneck import PostActivationUnit
from vitral.layers.conv import standardize
from vitral.models.hybrid import NAMES, Hybrid, HybridConfig

COUNTS = {
    "r_vit_ti16": 6_337_704,
    "r26_vit_s32": 36_431_912,
    "r26_vit_b32": 101_383_976,
    "r50_vit_b16": 98_659_112,
    "r50_vit_b32": 110_945_832,
    "r50_vit_l16": 316_483_624,
    "r50_vit_l32": 328_994_856,
}
CHANGED_COUNTS = [
    ("r_vit_ti16", {"image_size": 384}, 6_355_944),
    ("r26_vit_s32", {"image_size": 384}, 36_468_392),
    ("r50_vit_b16", {"image_size": 384}, 98_950_952),
    ("r50_vit_l32", {"image_size": 384}, 329_092_136),
    (
        "r50_vit_b16",
        {"num_classes": 21843, "representation_size": 768},
        115_277_971,
    ),
]
TINY = {
    "image_size": (48, 80),
    "patch_size": 8,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 48,
    "units": (2, 1),
    "stem_width": 8,
    "num_groups": 4,
}
TIMM = {"act": "gelu", "group_norm_eps": 1e-5, "std_eps": 1e-8}
TIMM |= {"std_eps_at": "variance"}


def tiny(**changes) -> Hybrid:
    model = Hybrid(HybridConfig(**{**TINY, **changes})).double()
    randomise(model)
    centre_biases(model)
    return model.eval()


def block_count(dim, mlp):
    return 4 * dim**2 + 2 * dim * mlp + 9 * dim + mlp


def test_counts():
    assert {name: count_parameters(name) for name in NAMES} == COUNTS
    # The two that are not published differ by a stem or an encoder from two that are.
    stems = COUNTS["r50_vit_b16"] - 12 * block_count(768, 3072) - 197 * 768
    stems -= 1024 * 768 + 3 * 768 + 768 + 1000 * 769
    assert stems == backbone(3, 4, 9)
    for name, units, dim, mlp, depth, tokens in (
        ("r50_vit_b32", (3, 4, 6, 3), 768, 3072, 12, 50),
        ("r50_vit_l16", (3, 4, 9), 1024, 4096, 24, 197),
    ):
        features = 256 * 2 ** (len(units) - 1)
        rest = features * dim + dim + (tokens + 1) * dim + 2 * dim + 1000 * (dim + 1)
        total = backbone(*units) + depth * block_count(dim, mlp) + rest
        assert COUNTS[name] == total


def backbone(*units):
    """Parameters of a backbone, unit by unit."""
    total, chans = 49 * 3 * 64 + 128, 64
    for stage, number in enumerate(units):
        inner = 64 * 2**stage
        for index in range(number):
            total += chans * inner + 9 * inner**2 + 4 * inner**2 + 12 * inner
            total += 0 if index else chans * 4 * inner + 8 * inner
            chans = 4 * inner
    return total


@pytest.mark.parametrize(("name", "changes", "expected"), CHANGED_COUNTS)
def test_counts_with_changes(name, changes, expected):
    assert count_parameters(name, **changes) == expected


@pytest.mark.parametrize(
    ("name", "features", "patch", "grid", "tokens"),
    [
        ("r_vit_ti16", (64, 56, 56), (8, 8), (7, 7), 50),
        ("r26_vit_s32", (2048, 7, 7), (1, 1), (7, 7), 50),
        ("r26_vit_b32", (2048, 7, 7), (1, 1), (7, 7), 50),
        ("r50_vit_b16", (1024, 14, 14), (1, 1), (14, 14), 197),
        ("r50_vit_l32", (2048, 7, 7), (1, 1), (7, 7), 50),
    ],
)
def test_grids(name, features, patch, grid, tokens):
    model = on_meta(name)
    image = torch.zeros(1, 3, 224, 224, device="meta")
    assert model.patch_embed.backbone(image).shape[1:] == features
    assert model.patch_embed.proj.kernel_size == patch
    assert model.config.grid == grid
    assert model.pos_embed.shape[1] == tokens
    assert model.embed(image).x.shape[1] == tokens


TIMM_NAMES = {
    "vit_tiny_r_s16_p8_224": "r_vit_ti16",
    "vit_tiny_r_s16_p8_384": "r_vit_ti16",
    "vit_small_r26_s32_224": "r26_vit_s32",
    "vit_small_r26_s32_384": "r26_vit_s32",
    "vit_base_r26_s32_224": "r26_vit_b32",
    "vit_base_r50_s16_224": "r50_vit_b16",
    "vit_base_r50_s16_384": "r50_vit_b16",
    "vit_large_r50_s32_224": "r50_vit_l32",
    "vit_large_r50_s32_384": "r50_vit_l32",
}


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_384", "vit_small_r26_s32_224"])
def test_names_and_shapes_are_those_of_timm(name):
    twin = timm.create_model(name)
    theirs = {key: value.shape for key, value in twin.state_dict().items()}
    ours = on_meta(name).state_dict()
    assert {key: value.shape for key, value in ours.items()} == theirs
    stem = "patch_embed.backbone." + ("" if "_r_" in name else "stem.")
    assert f"{stem}conv.weight" in ours


def twin_of(model: Hybrid, **changes) -> nn.Module:
    """timm's hybrid with the numbers and weights of `model`."""
    config, width = model.config, model.config.width
    same = config.padding == "same"
    parts = {
        "stem_type": "same" if same else "",
        "preact": False,
        "conv_layer": partial(StdConv2dSame if same else StdConv2d, eps=config.std_eps),
        "norm_layer": partial(
            GroupNormAct, num_groups=config.num_groups, eps=config.group_norm_eps
        ),
    }
    if config.units:
        stem: nn.Module = ResNetV2(
            list(config.units),
            channels=tuple(4 * width * 2**stage for stage in range(len(config.units))),
            num_classes=0,
            global_pool="",
            in_chans=config.in_chans,
            stem_chs=width,
            **parts,
        )
    else:
        stem = create_resnetv2_stem(config.in_chans, width, **parts)
    twin = timm.models.VisionTransformer(
        img_size=config.image_hw,
        patch_size=config.feature_patch,
        in_chans=config.in_chans,
        num_classes=config.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_dim / config.embed_dim,
        norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
        embed_layer=partial(HybridEmbed, backbone=stem),
        **changes,
    )
    twin = twin.to(model.pos_embed.dtype).eval()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("size", [(48, 48), (96, 96), (48, 80)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"units": (), "patch_size": 8},
        {"units": (1, 2, 1), "patch_size": 16, "width_factor": 2, "in_chans": 4},
        {"padding": "fixed"},
        {"patch_size": (16, 8)},
    ],
)
def test_logits_and_gradients_equal_timm(size, changes):
    model = tiny(**TIMM, **{**changes, "image_size": size})
    twin = twin_of(model)
    x = images(2, *size, model.config.in_chans)
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


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (24, 48)])
def test_another_size_at_run_time_equals_timm(size):
    model = tiny(**TIMM, position_resize="bicubic_antialias")
    twin = twin_of(model, dynamic_img_size=True)
    x = images(2, *size)
    # timm resizes the table in float32.
    assert relative_difference(model.float()(x.float()), twin.float()(x.float())) < 1e-5
    with torch.no_grad():
        model.pos_embed[:, 1:] = twin.pos_embed[:, 1:] = 0.25
    assert relative_difference(model.double()(x), twin.double()(x)) < 1e-10


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"])
def test_named_models_equal_timm(name):
    twin = timm.create_model(name, num_classes=7).eval()
    model = models.create(name, num_classes=7).eval()
    randomise(twin)
    model.load_state_dict(twin.state_dict())
    x = images(1, 224, 224)
    with torch.no_grad():
        assert relative_difference(model(x.float()), twin(x.float())) < 1e-5
        assert relative_difference(model.double()(x), twin.double()(x)) < 1e-10


def test_the_released_numerics_by_hand():
    """One post-activation unit as equations, with the epsilons of the released code."""
    model = tiny()
    unit = model.patch_embed.backbone.stages[1].blocks[0]
    assert isinstance(unit, PostActivationUnit)
    x = torch.randn(2, 32, 7, 10, generator=torch.Generator().manual_seed(2)).double()

    def conv(layer, y, stride=1):
        return F.conv2d(y, standardize(layer.weight, 1e-5, "deviation"), stride=stride)

    def norm(layer, y):
        return F.group_norm(y, 4, layer.weight, layer.bias, 1e-6)

    y = F.relu(norm(unit.norm1, conv(unit.conv1, x)))
    # Seven rows are padded (1, 1), ten columns (0, 1).
    y = conv(unit.conv2, F.pad(y, (0, 1, 1, 1)), stride=2)
    y = norm(unit.norm3, conv(unit.conv3, F.relu(norm(unit.norm2, y))))
    shortcut = norm(unit.downsample.norm, conv(unit.downsample.conv, x, stride=2))
    assert torch.allclose(unit(x), F.relu(y + shortcut), atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"units": (), "patch_size": 16, "in_chans": 5},
        {"global_pool": "avg", "class_token": False, "position": "sincos_2d"},
        {"reg_tokens": 2, "representation_size": 20, "padding": "fixed"},
    ],
)
def test_the_model_contract(changes):
    model = tiny(**changes)
    x = images(channels=model.config.in_chans)
    logits = model(x)
    assert logits.shape == (2, 7)
    features = model.forward_features(x)
    patch = model.config.patch_hw[0]
    assert features.patches.shape == (2, 48 // patch, 80 // patch, 24)
    assert torch.allclose(model.forward_head(features), logits, atol=1e-12)
    assert model(images(1, 80, 64, model.config.in_chans)).shape == (1, 7)
    model.train()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_backbone_is_the_stem():
    model = tiny()
    layers = {name: model.layer_index(name) for name, _ in model.named_parameters()}
    stem = {layers[name] for name in layers if name.startswith("patch_embed.")}
    assert stem == {0}
    assert layers["pos_embed"] == 0
    assert layers["blocks.1.mlp.fc2.bias"] == 2
    assert layers["head.bias"] == 3
    model.freeze(0)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {layers[name] for name in learning} == {1, 2, 3}
    model.freeze(2)
    learns = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learns == {"head.weight", "head.bias"}


def test_fresh_weights():
    torch.manual_seed(0)
    model = models.create("r26_vit_s32", num_classes=7, image_size=(64, 96))
    backbone = model.patch_embed.backbone
    for name, parameter in backbone.named_parameters():
        if parameter.ndim == 1:
            expected = 0.0 if "norm3" in name or name.endswith("bias") else 1.0
            assert torch.equal(parameter, torch.full_like(parameter, expected)), name
    conv = backbone.stages[3].blocks[1].conv2.weight
    assert conv.std().item() == pytest.approx((512 * 9) ** -0.5, rel=0.01)
    proj = model.patch_embed.proj
    assert proj.weight.std().item() == pytest.approx(2048**-0.5, rel=0.01)
    assert proj.bias.abs().max() == 0
    norms = [m for m in backbone.modules() if isinstance(m, nn.GroupNorm)]
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-6)}
    assert torch.equal(model(images(1, 64, 96).float()), torch.zeros(1, 7))
    unit = backbone.stages[2].blocks[1]
    x = torch.randn(1, 1024, 2, 3)
    assert torch.equal(unit(x), x.relu())


@pytest.mark.parametrize(
    "changes", [{}, {"units": (), "patch_size": 16}, {"padding": "fixed"}]
)
def test_macs_agree_with_a_counter(changes):
    model = tiny(**changes, global_pool="avg")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(images(1, 64, 96))
    assert 2 * model.config.macs((64, 96)) == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )


def normalised(model, side):
    """How many values pass through the norms of one square image."""
    values = []

    def hook(module, args, out):
        values.append(out.numel())

    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_hook(hook)
    model.forward_features(torch.zeros(1, 3, side, side, device="meta"))
    return sum(values)


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [
        ("r_vit_ti16", 0.44, 1.34),
        ("r26_vit_s32", 3.56, 10.43),
        ("r50_vit_b16", 21.66, 67.43),
        ("r50_vit_l32", 19.58, 57.43),
    ],
)
def test_macs_of_timms_table(name, small, large):
    """timm's table also counts 5 per value that is normalised and 4 per weight."""
    for side, gmacs in ((224, small), (384, large)):
        model = on_meta(name, image_size=side)
        backbone = model.patch_embed.backbone
        weights = sum(p.numel() for p in backbone.parameters() if p.ndim == 4)
        counted = model.config.macs() + 5 * normalised(model, side) + 4 * weights
        assert counted / 1e9 == pytest.approx(gmacs, abs=0.0051)


@pytest.mark.parametrize(("foreign", "ours"), TIMM_NAMES.items())
def test_names_of_timm(foreign, ours):
    for name in (foreign, f"{foreign}.augreg_in21k_ft_in1k"):
        config = models.get_config(name)
        assert isinstance(config, HybridConfig)
        assert models.get_model_name(config) == ours
        assert {field: getattr(config, field) for field in TIMM} == TIMM
        assert config.image_size == int(foreign[-3:])
    assert set(TIMM_NAMES) <= set(timm.list_models("vit_*_r*_s*"))


def test_every_name_is_called_by_its_own():
    assert {name: models.get_model_name(models.get_config(name)) for name in NAMES} == {
        name: name for name in NAMES
    }
    changed = models.get_config("r50_vit_b16", {"width_factor": 2})
    assert (
        models.get_model_name(changed)
        == models.get_model_name(HybridConfig(**TINY))
        == ""
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: tiny()(images(), torch.ones(2, 6, 10, dtype=torch.bool)),
            "`patch_mask` cannot be used with a hybrid: the convolutions before",
        ),
        (lambda: tiny()(images(channels=4)), "takes images of 3 channels: got 4"),
        (
            lambda: tiny(patch_size=12),
            r"multiple of the backbone's stride, 8 pixels for .*\(2, 1\).*: got 12",
        ),
        (
            lambda: tiny(patch_size=0),
            "`patch_size` must lie between 1 and 16384: got 0",
        ),
        (lambda: tiny(image_size=50), "`image_size` must be a multiple of `patch"),
        (lambda: tiny(patch_norm=True), "`patch_norm` normalises pixels and a hybrid"),
        (lambda: tiny(units=(2, -1)), "`units` must lie between 1 and 1024: got -1"),
        (lambda: tiny(num_groups=3), "multiple of `num_groups`: got 8 and 3"),
        (lambda: models.create("vit_tiny_r_s16_224"), "Unknown model"),
        (lambda: models.create("vit_large_r26_s32_224"), "Unknown model"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        call()
