"""The Vision Transformer: counts, equality with timm, and its own promises."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vitral.models as models
from helpers import TINY, images, randomise, tiny_vit
from vitral.errors import ConfigError
from vitral.models import SIZES, Features, ViT, ViTConfig

# Exact counts with 1000 classes and a class token at 224 pixels.
COUNTS = {
    "vit_ti16": 5_717_416,
    "vit_ti32": 6_131_560,
    "vit_s16": 22_050_664,
    "vit_s32": 22_878_952,
    "vit_b8": 86_576_872,
    "vit_b14": 86_475_496,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_l14": 304_203_752,
    "vit_l16": 304_326_632,
    "vit_l32": 306_535_400,
    "vit_h14": 632_045_800,
    "vit_h16": 632_199_400,
    "vit_h32": 634_960_360,
    "vit_giant14": 1_012_611_432,
    "vit_gigantic14": 1_844_440_680,
}
CHANGED_COUNTS = [
    ("vit_ti16", {"class_token": False, "global_pool": "avg"}, 5_717_032),
    ("vit_s16", {"class_token": False, "global_pool": "avg"}, 22_049_896),
    ("vit_s32", {"class_token": False, "global_pool": "avg"}, 22_878_184),
    ("vit_b16", {"class_token": False, "global_pool": "avg"}, 86_566_120),
    ("vit_b32", {"class_token": False, "global_pool": "avg"}, 88_222_696),
    ("vit_giant14", {"class_token": False, "global_pool": "avg"}, 1_012_608_616),
    ("vit_gigantic14", {"class_token": False, "global_pool": "avg"}, 1_844_437_352),
    ("vit_s16", {"class_token": False, "global_pool": "map"}, 23_823_976),
    ("vit_b16", {"class_token": False, "global_pool": "map"}, 93_653_224),
    ("vit_l16", {"class_token": False, "global_pool": "map"}, 316_919_784),
    ("vit_giant14", {"class_token": False, "global_pool": "map"}, 1_037_857_384),
    ("vit_gigantic14", {"class_token": False, "global_pool": "map"}, 1_882_797_416),
    ("vit_ti16", {"num_classes": 0}, 5_524_416),
    ("vit_s16", {"num_classes": 0}, 21_665_664),
    ("vit_b16", {"num_classes": 0}, 85_798_656),
    ("vit_b32", {"num_classes": 0}, 87_455_232),
    ("vit_l16", {"num_classes": 0}, 303_301_632),
    ("vit_l32", {"num_classes": 0}, 305_510_400),
    ("vit_h14", {"num_classes": 0}, 630_764_800),
    ("vit_ti16", {"image_size": 384}, 5_790_376),
    ("vit_s16", {"image_size": 384}, 22_196_584),
    ("vit_b16", {"image_size": 384}, 86_859_496),
    ("vit_b32", {"image_size": 384}, 88_297_192),
    ("vit_l16", {"image_size": 384}, 304_715_752),
    ("vit_l32", {"image_size": 384}, 306_632_680),
    ("vit_l16", {"image_size": 512}, 305_174_504),
    ("vit_h14", {"image_size": 518}, 633_470_440),
    ("vit_b16", {"num_classes": 21843}, 102_595_923),
    ("vit_b16", {"num_classes": 21843, "representation_size": 768}, 103_186_515),
    ("vit_l16", {"num_classes": 21843}, 325_690_707),
    ("vit_l16", {"num_classes": 21843, "representation_size": 1024}, 326_740_307),
    ("vit_b32", {"num_classes": 21843, "representation_size": 768}, 104_843_091),
    ("vit_h14", {"num_classes": 21843, "representation_size": 1280}, 660_385_363),
    ("vit_b16", {"representation_size": 768}, 87_158_248),
    (
        "vit_s16",
        {"class_token": False, "global_pool": "avg", "position": "sincos_2d"},
        21_974_632,
    ),
    (
        "vit_s16",
        {
            "class_token": False,
            "global_pool": "avg",
            "position": "sincos_2d",
            "representation_size": 384,
        },
        22_122_472,
    ),
]


def count(name, **changes):
    with torch.device("meta"):
        model = models.create(name, **changes)
    return sum(parameter.numel() for parameter in model.parameters())


def counted_by_formula(name):
    """The sum of the parts, from the numbers of the size alone."""
    size, patch = name.removeprefix("vit_"), 0
    for patch in (8, 14, 16, 32):
        if size.endswith(str(patch)) and size.removesuffix(str(patch)) in SIZES:
            size = SIZES[size.removesuffix(str(patch))]
            break
    dim, mlp, tokens = size["embed_dim"], size["mlp_dim"], (224 // patch) ** 2 + 1
    block = 4 * dim**2 + 4 * dim + 2 * dim * mlp + mlp + dim + 4 * dim
    stem = patch**2 * 3 * dim + dim + tokens * dim + dim
    return stem + size["depth"] * block + 2 * dim + 1000 * (dim + 1)


@pytest.mark.parametrize("name", models.families()["vit"].sizes)
def test_parameter_count_of_every_name(name):
    assert count(name) == COUNTS.get(name, counted_by_formula(name))


def test_the_formula_agrees_with_the_published_counts():
    assert {name: counted_by_formula(name) for name in COUNTS} == COUNTS
    assert set(COUNTS) <= set(models.names())


@pytest.mark.parametrize(("name", "changes", "expected"), CHANGED_COUNTS)
def test_parameter_count_with_changes(name, changes, expected):
    assert count(name, **changes) == expected


def test_parts_of_b16():
    with torch.device("meta"):
        model = models.create("vit_b16")

    def size(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(model.patch_embed) == 590_592
    assert model.pos_embed.numel() == 151_296
    assert model.cls_token.numel() == 768
    assert {size(block) for block in model.blocks} == {7_087_872}
    assert size(model.norm) == 1_536
    assert size(model.head) == 769_000


@pytest.mark.parametrize(
    ("name", "image_size", "gmacs"),
    [
        ("vit_ti16", 224, 1.254),
        ("vit_s32", 384, 3.443),
        ("vit_s16", 224, 4.599),
        ("vit_b16", 224, 17.564),
        ("vit_b16", 384, 55.484),
        ("vit_l16", 512, 361.99),
        ("vit_h14", 518, 1016.7),
        ("vit_gigantic14", 224, 483.748),
    ],
)
def test_macs_of_the_table(name, image_size, gmacs):
    macs = models.get_config(name).macs(image_size)
    assert macs / 1e9 == pytest.approx(gmacs, rel=5e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"global_pool": "avg"},
        {"class_token": False, "global_pool": "map"},
        {"reg_tokens": 3, "representation_size": 20, "global_pool": "token_avg"},
    ],
)
def test_macs_agree_with_a_counter(changes):
    model = tiny_vit(**changes)
    # The counter does not know the fused kernel of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(images(1, 64, 96))
    assert 2 * model.config.macs((64, 96)) == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )


TIMM_CASES = {
    "class token": ({}, {}),
    "mean": ({"global_pool": "avg", "class_token": False}, {"fc_norm": False}),
    "mean, norm after": (
        {"global_pool": "avg", "norm_after_pool": True},
        {"fc_norm": True},
    ),
    "attention pooling": ({"global_pool": "map", "class_token": False}, {}),
    "LayerScale, registers": (
        {"init_values": 0.1, "reg_tokens": 3, "no_embed_class": True},
        {},
    ),
    "registers with positions": ({"reg_tokens": 3}, {}),
    "qk-norm, no qkv bias": ({"qk_norm": True, "qkv_bias": False}, {}),
    "tanh GELU": ({"act": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
}


def timm_twin(config: ViTConfig, **changes):
    same = ("num_classes", "embed_dim", "depth", "num_heads", "class_token")
    same += ("global_pool", "reg_tokens", "no_embed_class", "qkv_bias", "qk_norm")
    same += ("init_values",)
    return timm.models.VisionTransformer(
        img_size=config.image_hw,
        patch_size=config.patch_hw,
        mlp_ratio=config.mlp_dim / config.embed_dim,
        norm_layer=lambda dim, **_: nn.LayerNorm(dim, eps=config.norm_eps),
        dynamic_img_size=True,
        **{name: getattr(config, name) for name in same},
        **changes,
    )


@pytest.mark.parametrize("case", TIMM_CASES)
@pytest.mark.parametrize("image_size", [(48, 48), (48, 80)])
def test_logits_equal_timm(case, image_size):
    ours, theirs = TIMM_CASES[case]
    config = ViTConfig(
        **{**TINY, "act": "gelu", "mlp_dim": 48, "image_size": image_size, **ours}
    )
    model, twin = ViT(config).eval(), timm_twin(config, **theirs).eval()
    randomise(model)
    twin.load_state_dict(model.state_dict())
    x = images(2, *image_size)
    single = (model(x.float()) - twin(x.float())).abs().max()
    assert single <= 1e-5 * twin(x.float()).abs().max()
    model, twin = model.double(), twin.double()
    assert (model(x) - twin(x)).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["vit_ti16", "vit_s32"])
def test_named_models_equal_timm(name):
    words = {"ti": "tiny", "s": "small", "b": "base"}
    size, patch = name.removeprefix("vit_")[:-2], name[-2:]
    twin = timm.create_model(f"vit_{words[size]}_patch{patch}_224").eval()
    model = models.create(name, act="gelu").eval()
    randomise(twin)
    model.load_state_dict(twin.state_dict())
    x = images(1, 224, 224)
    with torch.no_grad():
        single = (model(x.float()) - twin(x.float())).abs().max()
        assert single <= 1e-5 * twin(x.float()).abs().max()
        assert (model.double()(x) - twin.double()(x)).abs().max() < 1e-10


ALL_KINDS = [
    {},
    {"class_token": False, "global_pool": "avg"},
    {"class_token": False, "global_pool": "map"},
    {"global_pool": "token_avg", "representation_size": 20},
    {"reg_tokens": 2, "init_values": 0.1, "qk_norm": True, "drop_path_rate": 0.1},
    {"position": "none"},
    {"position": "learned_2d"},
    {"position": "sincos_2d"},
    {"position": "relative", "global_pool": "avg"},
    {"position_at": "every_layer"},
    {"position_at": "every_layer_shared", "position": "learned_2d"},
    {"norm_after_pool": True, "global_pool": "avg", "in_chans": 5},
    {"patch_size": (16, 8)},
]


@pytest.mark.parametrize("changes", ALL_KINDS)
def test_every_kind_keeps_the_model_contract(changes):
    model = tiny_vit(**changes)
    x = images(channels=model.config.in_chans)
    logits = model(x)
    assert logits.shape == (2, 7)
    features = model.forward_features(x)
    columns = 80 // model.config.patch_hw[1]
    assert features.patches.shape == (2, 3, columns, 24)
    assert (features.cls is None) is not model.config.class_token
    assert torch.allclose(model.forward_head(features), logits, atol=1e-12)
    model(images(1, 80, 64, model.config.in_chans))
    copy = tiny_vit(**changes)
    randomise(copy, seed=3)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(x), logits)


@pytest.mark.parametrize("changes", ALL_KINDS)
def test_every_parameter_gets_a_gradient(changes):
    model = tiny_vit(**changes).train()
    torch.manual_seed(1)
    model(images(channels=model.config.in_chans)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_zero_head_makes_every_class_equal():
    model = models.create("vit_mu16", num_classes=10, image_size=(32, 48))
    assert torch.equal(model(images(2, 32, 48).float()), torch.zeros(2, 10))
    biased = models.create("vit_mu16", num_classes=10, image_size=32, head_bias=-10.0)
    assert torch.equal(biased(images(2, 32, 32).float()), torch.full((2, 10), -10.0))


def test_initialisation_of_a_whole_model():
    torch.manual_seed(0)
    model = models.create("vit_b32", reg_tokens=2, representation_size=768)
    assert model.cls_token.abs().max() == 0
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.head.weight.abs().max() == 0
    fc = model.pre_logits.fc
    assert fc.weight.std().item() == pytest.approx(768**-0.5, rel=0.01)
    for block in model.blocks:
        assert block.mlp.fc1.bias.std().item() == pytest.approx(1e-6, rel=0.1)
        assert block.attn.qkv.weight.abs().max() <= 0.0625
        assert torch.equal(block.norm1.weight, torch.ones(768))


@pytest.mark.parametrize(
    ("name", "image_size", "tokens"),
    [
        ("vit_mu16", 224, 197),
        ("vit_mu32", 224, 50),
        ("vit_mu14", 224, 257),
        ("vit_mu16", 384, 577),
        ("vit_mu32", 384, 145),
        ("vit_mu16", 512, 1025),
        ("vit_mu14", 518, 1370),
        ("vit_mu8", 224, 785),
    ],
)
def test_token_counts(name, image_size, tokens):
    model = models.create(name, image_size=image_size)
    image = torch.zeros(1, 3, image_size, image_size)
    assert model.embed(image).x.shape[1] == tokens
    assert model.pos_embed.shape[1] == tokens


def test_a_rectangle_has_rows_before_columns():
    model = tiny_vit(patch_size=4, image_size=(8, 12))
    tokens = model.embed(images(1, 8, 12))
    assert (tokens.rows, tokens.columns) == (2, 3)
    assert tokens.x.shape[1] == 7


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_without_positions_the_order_of_patches_is_unknown(pool):
    changes = {"position": "none", "global_pool": pool}
    image = images(1)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    patches = image.unflatten(2, (3, 16)).unflatten(4, (5, 16))
    patches = patches.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)[order]
    patches = patches.unflatten(0, (3, 5)).permute(2, 3, 0, 4, 1, 5)
    shuffled = patches.flatten(4, 5).flatten(2, 3)
    blind, seeing = tiny_vit(**changes), tiny_vit(global_pool=pool)
    before = blind.forward_features(image).patches.flatten(1, 2)
    after = blind.forward_features(shuffled).patches.flatten(1, 2)
    assert (after - before[:, order]).abs().max() < 1e-12
    assert (blind(shuffled) - blind(image)).abs().max() < 1e-12
    assert (seeing(shuffled) - seeing(image)).abs().max() > 1e-3


def test_tables_added_at_every_layer():
    stem, layers, shared = (
        tiny_vit(position_at=at) for at in ("stem", "every_layer", "every_layer_shared")
    )
    sizes = [sum(p.numel() for p in m.parameters()) for m in (stem, layers, shared)]
    assert sizes[1] - sizes[0] == 16 * 24 * (2 - 1)
    assert sizes[2] == sizes[0]
    x = images()
    same = layers.state_dict() | {"pos_embed": shared.pos_embed.expand(2, -1, -1)}
    layers.load_state_dict(same)
    shared.load_state_dict({**same, "pos_embed": shared.pos_embed})
    assert torch.allclose(layers(x), shared(x), atol=1e-12)
    stem.load_state_dict(shared.state_dict())
    assert (stem(x) - shared(x)).abs().max() > 1e-3


def test_merging_the_class_row_into_the_token_changes_nothing():
    official, merged = tiny_vit(), tiny_vit(no_embed_class=True)
    state = official.state_dict()
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    merged.load_state_dict(state)
    x = images(2, 64, 96)
    assert (official(x) - merged(x)).abs().max() < 1e-12


@pytest.mark.parametrize("changes", ALL_KINDS)
def test_a_masked_patch_cannot_be_seen(changes):
    model = tiny_vit(**changes)
    chans, (height, width) = model.config.in_chans, model.config.patch_hw
    x = images(3, channels=chans)
    mask = torch.ones(3, 48 // height, 80 // width, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, 0, 0] = mask[1, 2, 4] = False
    changed = x.clone()
    changed[0, :, height : 2 * height, 2 * width : 3 * width] += 5.0
    logits = model(x, mask)
    assert torch.equal(model(changed, mask)[0], logits[0])
    assert (model(changed)[0] - model(x)[0]).abs().max() > 1e-3
    for i in range(3):
        alone = model(x[i : i + 1], mask[i : i + 1])
        assert torch.allclose(alone[0], logits[i], atol=1e-12)
    assert torch.allclose(logits[2], model(x)[2], atol=1e-12)
    nothing = torch.zeros(3, 48 // height, 80 // width, dtype=torch.bool)
    assert torch.isfinite(model.forward_features(x, nothing).patches).all()


def test_dropout_sits_at_four_places():
    model = tiny_vit(drop_rate=0.5)
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [drop.p for drop in drops] == [0.5] * (1 + 3 * 2)
    x = images()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_stochastic_depth_rates_of_the_blocks():
    model = tiny_vit(depth=12, drop_path_rate=0.1)
    rates = [block.drop_path2.rate for block in model.blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


def test_freezing_keeps_a_prefix_out_of_training():
    model = tiny_vit(drop_rate=0.5, depth=3)
    model.freeze(2)
    model.train()
    x = images()
    assert torch.equal(
        model.forward_blocks(model.embed(x), 0, 2).x,
        model.forward_blocks(model.embed(x), 0, 2).x,
    )
    model(x).sum().backward()
    learning = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learning
    assert {model.layer_index(name) for name in learning} == {3, 4}
    model.freeze(3)
    learns = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learns == {"head.weight", "head.bias"}
    with pytest.raises(ConfigError, match=r"between 0 .the stem. and 3 .all blo"):
        model.freeze(4)


def test_layers_for_the_learning_rate():
    model = tiny_vit(reg_tokens=1)
    layers = {name: model.layer_index(name) for name, _ in model.named_parameters()}
    assert layers["cls_token"] == layers["pos_embed"] == layers["reg_token"] == 0
    assert layers["patch_embed.proj.weight"] == 0
    assert layers["blocks.0.attn.qkv.weight"] == 1
    assert layers["blocks.1.mlp.fc2.bias"] == 2
    assert layers["norm.weight"] == layers["head.bias"] == 3


def test_compile_and_export_keep_the_function():
    # In a process of its own: shape checks wrap the functions here.
    script = Path(__file__).with_name("compile_and_export.py")
    paths = os.pathsep.join([str(script.parents[1] / "src"), str(script.parent)])
    command = [sys.executable, "-W", "error", str(script)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})


@pytest.mark.parametrize(
    ("foreign", "ours", "fields"),
    [
        ("vit_base_patch16_224", "vit_b16", {"act": "gelu", "image_size": 224}),
        ("vit_large_patch32_384.orig_in21k", "vit_l32", {"image_size": 384}),
        ("vit_small_patch14_dinov2.lvd142m", "vit_s14", {"image_size": 518}),
        ("vit_base_patch14_reg4_dinov2", "vit_b14", {"reg_tokens": 4}),
        ("google/vit-base-patch16-224-in21k", "vit_b16", {"norm_eps": 1e-12}),
    ],
)
def test_names_of_others(foreign, ours, fields):
    config = models.get_config(foreign)
    assert {name: getattr(config, name) for name in fields} == fields
    want = models.get_config(ours, {"image_size": config.image_size})
    for field in ("embed_dim", "depth", "num_heads", "mlp_dim", "patch_size"):
        assert getattr(config, field) == getattr(want, field)


def test_any_patch_size_has_a_name():
    config = models.get_config("vit_s10")
    assert config.patch_size == 10
    assert config.image_size == 220


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: models.create("vit_b17x"), "Unknown model `vit_b17x`. The nearest na"),
        (lambda: models.create("vit_b16", depht=3), "no setting `depht`. Did you mean"),
        (lambda: tiny_vit(num_heads=5), "multiple of `num_heads`: got 24 and 5"),
        (lambda: tiny_vit(class_token=False), "`global_pool=token` needs the class to"),
        (
            lambda: tiny_vit(position="sincos_2d", embed_dim=18),
            "needs an `embed_dim` that is a multiple of 4: got 18",
        ),
        (
            lambda: tiny_vit(position="relative", position_at="every_layer"),
            "`position_at` must be `stem`: got `every_layer`",
        ),
        (lambda: tiny_vit(drop_rate=1.5), "`drop_rate` must lie in .0, 1.: got 1.5"),
        (lambda: tiny_vit(image_size=50), "`image_size` must be a multiple of `patch"),
        (lambda: tiny_vit()(images(channels=4)), "takes images of 3 channels: got 4"),
        (
            lambda: tiny_vit()(images(), torch.ones(2, 5, 3, dtype=torch.bool)),
            "one value per patch, 3 x 5: got .5, 3.",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        call()


def test_features_are_a_named_tuple():
    features = tiny_vit().forward_features(images())
    assert isinstance(features, Features)
    assert next(field.name for field in dataclasses.fields(ViTConfig)) == "image_size"
