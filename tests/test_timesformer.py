"""TimeSformer: who sees whom, equality with published numbers, and its promises."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vitral as vt
import vitral.models as models
from helpers import (
    TINY,
    assert_near,
    golden_noise,
    images,
    randomise,
    tiny_timesformer,
    tiny_vit,
)
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.inspection import feature_colors, iter_attention
from vitral.layers import Grid, resize, resize_time
from vitral.models import DeiTConfig, TimeSformer, TimeSformerConfig, keys_per_query
from vitral.models.timesformer.config import STEPS
from vitral.models.timesformer.timesformer import ClipBlock

SCHEMES = tuple(STEPS)
FRAMES = 4


def clips(batch=2, frames=FRAMES, height=48, width=80, channels=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# sizes


COUNTS = [
    ("timesformer_b16", {"attention_type": "space", "num_classes": 400}, 86_106_256),
    ("timesformer_b16", {"attention_type": "joint", "num_classes": 400}, 86_112_400),
    ("timesformer_b16", {"num_classes": 400}, 121_566_352),
    ("timesformer_b16_hr", {"num_classes": 400}, 122_024_080),
    ("timesformer_b16_long", {"num_classes": 400}, 121_633_936),
    ("timesformer_b16", {"num_classes": 174}, 121_392_558),
    # The paper says 85.9 million of these two, and 121.4 and 156.8 of the next.
    ("timesformer_b16", {"attention_type": "space", "num_classes": 174}, 85_932_462),
    ("timesformer_b16", {"attention_type": "joint", "num_classes": 174}, 85_938_606),
    (
        "timesformer_b16",
        {"attention_type": "local_global", "num_classes": 174},
        121_392_558,
    ),
    ("timesformer_b16", {"attention_type": "axial", "num_classes": 174}, 156_846_510),
]


@pytest.mark.parametrize(("name", "changes", "expected"), COUNTS)
def test_parameter_counts(name, changes, expected):
    with torch.device("meta"):
        model = models.create(name, **changes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("size", ["ti", "s", "b", "l"])
def test_parameter_count_of_every_size(size):
    """An image model's, a table of time, and one more attention in every block."""
    vit = models.get_config(f"vit_{size}16")
    width = vit.embed_dim
    step = 2 * width + 4 * width**2 + 4 * width + width**2 + width
    with torch.device("meta"):
        image_model, model = (
            models.create(name) for name in (f"vit_{size}16", f"timesformer_{size}16")
        )
    count, image_count = (
        sum(p.numel() for p in m.parameters()) for m in (model, image_model)
    )
    assert count == image_count + 8 * width + vit.depth * step
    assert size != "b" or step == 2_954_496


def test_every_name_is_counted():
    sizes = {f"timesformer_{size}16" for size in ("ti", "s", "b", "l")}
    names = set(models.families()["timesformer"].sizes)
    assert names == sizes | {name for name, _, _ in COUNTS}


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("timesformer_b16", 0.1958),
        ("timesformer_b16_hr", 1.7027),
        ("timesformer_b16_long", 2.3799),
    ],
)
def test_macs_of_the_published_models(name, tera):
    config = models.get_config(name, {"num_classes": 400})
    assert config.macs() / 1e12 == pytest.approx(tera, abs=5e-5)
    # The paper's figures are those of three crops.
    paper = {"timesformer_b16": 0.59, "timesformer_b16_hr": 5.11}.get(name, 7.14)
    assert round(3 * config.macs() / 1e12, 2) == paper


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("changes", [{}, {"class_token_in": "every_step"}])
def test_macs_agree_with_a_counter(scheme, changes):
    model = tiny_timesformer(
        attention_type=scheme, global_pool="avg", reg_tokens=2, **changes
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(clips(1, 3, 64, 112))
    found = model.config.macs((64, 112), num_frames=3)
    assert 2 * found == counter.get_total_flops()


def test_keys_per_query_of_the_table():
    """Table of the five schemes; local and global have one class token more each."""
    frames, grid = 8, Grid(14, 14)
    patches = 196
    assert keys_per_query("space", frames, grid) == (patches + 1,)
    assert keys_per_query("joint", frames, grid) == (1569,)
    assert sum(keys_per_query("divided", frames, grid)) == patches + frames + 2 == 206
    assert keys_per_query("local_global", frames, grid) == (392 + 1, 196 + 1)
    assert sum(keys_per_query("axial", frames, grid)) == 8 + 14 + 14 + 3
    assert keys_per_query("axial", 5, Grid(3, 7)) == (6, 8, 4)
    assert keys_per_query("local_global", 5, Grid(3, 7)) == (
        5 * 1 * 3 + 1,
        3 * 2 * 4 + 1,
    )


# who sees whom


EXTENT = (3, 4, 9)
PLACES = list(itertools.product(*map(range, EXTENT)))
INTERIOR, BORDERS = (1, 2, 4), [(0, 0, 0), (2, 3, 8), (1, 0, 5)]


def keys_of(kind, place):
    """The patches that a patch sees, from the words of the paper."""
    frame, row, column = place
    rules = {
        "clip": lambda t, r, c: True,
        "space": lambda t, r, c: t == frame,
        "time": lambda t, r, c: (r, c) == (row, column),
        "width": lambda t, r, c: (t, r) == (frame, row),
        "height": lambda t, r, c: (t, c) == (frame, column),
        # 4 rows: one to either side; 9 columns: two to either side.
        "local": lambda t, r, c: abs(r - row) <= 1 and abs(c - column) <= 2,
        "strided": lambda t, r, c: (t % 2, r % 2, c % 2) == (0, 0, 0),
    }
    return {at for at in PLACES if rules[kind](*at)}


def silence(block, step_name):
    """Leave only one attention of a block: its output is then x + that step's."""
    keep = f"{step_name}_attn" if step_name else "attn"
    with torch.no_grad():
        for name, module in block.named_children():
            if name.endswith("attn") and name != keep:
                module.proj.weight.zero_()
                module.proj.bias.zero_()
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    return block


def influence(block, index, scheme):
    """Places whose tokens change the token `index` of the block's output."""
    tokens = math.prod(EXTENT) + (EXTENT[0] if scheme == "space" else 1)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, tokens, 24, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    weight = torch.randn(24, generator=generator, dtype=torch.float64)
    (block(x, Grid(*EXTENT[1:]))[0, index] @ weight).backward()
    return {at for at, size in enumerate(x.grad[0].abs().amax(1)) if size > 0}


def index_of(place, scheme):
    frame, row, column = place
    _, rows, columns = EXTENT
    if scheme == "space":
        return frame * (1 + rows * columns) + 1 + row * columns + column
    return 1 + (frame * rows + row) * columns + column


CASES = [(scheme, step) for scheme in SCHEMES for step in STEPS[scheme]]


@pytest.mark.parametrize("rule", ["last_step", "every_step"])
@pytest.mark.parametrize(("scheme", "step"), CASES)
def test_a_patch_sees_the_keys_of_its_scheme(scheme, step, rule):
    model = tiny_timesformer(attention_type=scheme, class_token_in=rule, depth=1)
    block = silence(model.blocks[0], step.name)
    inside = not step.name or rule == "every_step"
    for place in (INTERIOR, *BORDERS):
        index = index_of(place, scheme)
        wanted = {index_of(at, scheme) for at in keys_of(step.kind, place)} | {index}
        if inside:
            own = place[0] * (1 + EXTENT[1] * EXTENT[2]) if scheme == "space" else 0
            wanted.add(own)
        assert influence(block, index, scheme) == wanted


@pytest.mark.parametrize("rule", ["last_step", "every_step"])
@pytest.mark.parametrize(("scheme", "step"), CASES)
def test_the_class_token_sees_what_the_docstring_says(scheme, step, rule):
    model = tiny_timesformer(attention_type=scheme, class_token_in=rule, depth=1)
    block = silence(model.blocks[0], step.name)
    wanted = {0}
    if scheme == "space":
        wanted |= set(range(1, 1 + EXTENT[1] * EXTENT[2]))
    elif step.name and rule == "last_step":
        pass
    elif step.kind == "strided":
        wanted |= {index_of(at, scheme) for at in keys_of("strided", INTERIOR)}
    else:
        wanted |= set(range(1 + math.prod(EXTENT)))
    assert influence(block, 0, scheme) == wanted


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_block_joins_its_steps(scheme):
    """What a patch hears of after a whole block: keys of keys."""
    block, place = tiny_timesformer(attention_type=scheme, depth=1).blocks[0], (1, 1, 4)
    heard = {place}
    for step in reversed(STEPS[scheme]):
        heard |= set().union(*(keys_of(step.kind, at) for at in heard))
    cls = place[0] * (1 + EXTENT[1] * EXTENT[2]) if scheme == "space" else 0
    wanted = {index_of(at, scheme) for at in heard} | {cls}
    assert influence(block, index_of(place, scheme), scheme) == wanted


@pytest.mark.parametrize("kind", ["local", "strided"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_sparse_attention_equals_its_dense_form(kind, prefix):
    """The weights that are shown, times values, are what the fast path gives."""
    rule = {"class_token_in": "every_step"} if prefix else {}
    fields = {"reg_tokens": 1} if prefix else {}
    fields |= {} if prefix else {"class_token": False, "global_pool": "avg"}
    model = tiny_timesformer(
        attention_type="local_global", depth=1, qk_norm=True, **fields, **rule
    )
    block = model.blocks[0]
    layer = block.local_attn if kind == "local" else block.attn
    x = clips(2, 3, 4, 6)[..., :24].reshape(2, -1)[:, : 24 * 18]
    generator = torch.Generator().manual_seed(3)
    tokens = math.prod(EXTENT) + prefix
    x = torch.randn(2, tokens, 24, generator=generator, dtype=torch.float64)
    grid = Grid(*EXTENT[1:])
    weights = layer.attention_weights(x, grid)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, tokens).double())
    assert (weights == 0).any()
    v = layer.qkv(x)[..., 48:].unflatten(-1, (3, 8)).transpose(1, 2)
    wanted = layer.proj((weights @ v).transpose(1, 2).flatten(2))
    assert_near(layer(x, grid), wanted, 1e-12)


@pytest.mark.parametrize("scheme", ["divided", "local_global", "axial", "space"])
def test_no_matrix_of_all_tokens_is_kept(scheme):
    fields = {"attention_type": scheme, "patch_size": 4, "image_size": (24, 40)}
    model = tiny_timesformer(**fields, depth=1, global_pool="avg").float()
    x = clips(1, 8, 24, 40).float()
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x).sum().backward()
    tokens = 8 * 6 * 10 + 1
    assert max(sizes) < tokens**2


# published numbers


GOLDEN = {
    "space": ((-0.49700163, 0.11032294, 0.25442636, -0.16770089), 1.16459348),
    "joint": ((-0.45483338, 0.06836031, 0.24562598, -0.11376673), 1.10010656),
    "divided": ((-0.55505007, 0.16631260, 0.27927217, -0.13901099), 1.26045785),
}
"""First logits and the sum of all five, computed with the released class."""


@pytest.mark.parametrize("scheme", GOLDEN)
def test_golden_logits(scheme):
    sizes = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4}
    config = TimeSformerConfig(
        **sizes,
        mlp_dim=128,
        num_classes=5,
        num_frames=3,
        attention_type=scheme,
        act="gelu",
    )
    model = TimeSformer(config).double().eval()
    state = {}
    for name, empty in model.state_dict().items():
        value = 0.2 * (golden_noise(empty.shape, sum(name.encode()) % 97) - 0.5)
        gain = empty.ndim == 1 and name.endswith(".weight")
        state[name] = value + gain
    model.load_state_dict(state)
    # The released code takes channels before frames.
    clip = (2 * golden_noise((1, 3, 3, 32, 32), 1) - 1).transpose(1, 2)
    with torch.no_grad():
        logits = model(clip)[0]
    first, total = GOLDEN[scheme]
    assert logits[:4].tolist() == pytest.approx(first, abs=1e-7)
    assert logits.abs().sum().item() == pytest.approx(total, abs=1e-7)


# from image models


IMAGE_KINDS = [
    {},
    {"global_pool": "avg", "class_token": False},
    {"global_pool": "map", "reg_tokens": 2},
    {"global_pool": "token_avg", "representation_size": 20, "init_values": 0.1},
    {"position": "sincos_2d", "qk_norm": True, "mlp": "swiglu"},
    {"position": "learned_2d", "norm_after_pool": True},
]


@pytest.mark.parametrize("changes", IMAGE_KINDS)
def test_equal_frames_give_the_image_models_answer(changes):
    """A fresh time step changes nothing, so a divided model starts as the image's."""
    vit = tiny_vit(**changes)
    model = models.from_image(vit, num_frames=FRAMES)
    assert model.config.attention_type == "divided"
    x = images()
    still = x[:, None].expand(-1, FRAMES, -1, -1, -1)
    assert_near(model(still), vit(x), 1e-12)
    features = model.forward_features(still)
    assert_near(features.patches[:, 2], vit.forward_features(x).patches, 1e-12)
    # Not because time is cut off: other frames give another answer.
    moving = torch.cat([still[:, :3], clips(2, 1, seed=5)], dim=1)
    assert (model(moving) - vit(x)).abs().max() > 1e-3


def test_space_attention_equals_the_image_model_on_a_frame():
    vit = tiny_vit()
    model = models.from_image(vit, num_frames=FRAMES, attention_type="space")
    assert_near(model(clips(2, 1)), vit(clips(2, 1)[:, 0]), 1e-12)


def test_what_a_model_from_images_starts_with():
    vit = tiny_vit(depth=1)
    model = models.from_image(vit, num_frames=5, attention_type="axial")
    state, image = model.state_dict(), vit.state_dict()
    for step in ("temporal_", "width_", ""):
        assert torch.equal(
            state[f"blocks.0.{step}attn.qkv.weight"], image["blocks.0.attn.qkv.weight"]
        )
        assert torch.equal(
            state[f"blocks.0.{step}norm1.bias"], image["blocks.0.norm1.bias"]
        )
    zero = {name for name, tensor in state.items() if not tensor.any()}
    fcs = {
        f"blocks.0.{s}_fc.{p}"
        for s in ("temporal", "width")
        for p in ("weight", "bias")
    }
    assert zero == fcs | {"time_embed"}
    assert state["time_embed"].shape == (1, 5, 24)
    assert torch.equal(state["head.weight"], image["head.weight"])


def test_fresh_steps_start_at_zero_everywhere():
    model = models.create("timesformer_ti16", num_classes=7, image_size=(32, 48))
    for block in model.blocks:
        assert not block.temporal_fc.weight.any()
        assert not block.temporal_fc.bias.any()
        assert block.temporal_attn.qkv.weight.abs().max() > 0
    assert not model.time_embed.any()
    assert not model(clips(1, 2, 32, 48).float()).any()


@pytest.mark.parametrize(
    ("vit", "sentence"),
    [
        (
            lambda: tiny_vit(position="relative"),
            "adds its positions to the tokens, onc",
        ),
        (lambda: tiny_vit(position_at="every_layer"), "and `position_at=every_layer`"),
        (
            lambda: models.build_model(DeiTConfig(**TINY)),
            r"of a plain Vision Transformer: got a DeiT\.",
        ),
    ],
)
def test_image_models_that_cannot_start_one(vit, sentence):
    with pytest.raises(ConfigError, match=sentence):
        models.from_image(vit())


# frames


ORDER = (2, 0, 3, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_of_frames_is_told_by_time_positions_alone(scheme):
    x, order = clips(), list(ORDER)
    with_time, without = (
        tiny_timesformer(attention_type=scheme),
        tiny_timesformer(attention_type=scheme, time_position="none"),
    )
    moved = (without(x[:, order]) - without(x)).abs().max()
    if scheme == "local_global":
        # Every second frame is looked at, so a place in time is not like another.
        assert moved > 1e-3
    else:
        assert moved < 1e-12
    changed = (with_time(x[:, order]) - with_time(x)).abs().max()
    assert (changed < 1e-12) == (scheme == "space")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [(1, 48, 80), (7, 48, 80), (3, 64, 112), (2, 16, 48)])
def test_frames_and_size_are_free_at_run_time(scheme, size):
    model = tiny_timesformer(attention_type=scheme)
    frames, height, width = size
    x = clips(2, *size)
    features = model.forward_features(x)
    assert features.patches.shape == (2, frames, height // 16, width // 16, 24)
    assert model(x).shape == (2, 7)
    assert_near(model.forward_head(features), model(x), 1e-12)


def test_time_positions_are_resized_as_the_released_code_does():
    """Rows of a table that hold their own number."""
    table = torch.arange(8.0)[None, :, None]

    def rows(frames):
        return resize_time(table, frames, "nearest").flatten().int().tolist()

    assert rows(16) == [at // 2 for at in range(16)]
    assert rows(12) == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
    linear = resize_time(table.double(), 15, "linear").flatten()
    assert linear.tolist() == pytest.approx([at / 2 for at in range(15)])
    assert resize_time(table, 1, "linear").item() == 0


def coordinates(grid: Grid) -> torch.Tensor:
    """A table whose rows say where they are, from 0 at one edge to 1 at the other."""
    sides = [torch.linspace(0, 1, side, dtype=torch.float64) for side in grid]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, 1)[None]


@pytest.mark.parametrize(("old", "new"), [((3, 5), (6, 10)), ((14, 9), (5, 20))])
def test_every_place_is_kept_by_resizing(old, new):
    old, new = Grid(*old), Grid(*new)
    found = resize(coordinates(old), old, new, "official")
    assert torch.allclose(found, coordinates(new), atol=1e-12)


def test_how_many_places_the_released_loader_keeps():
    """From 14 x 14 to 28 x 28: as one row, 7.1 % of the patches stay in place."""
    old, new = Grid(14, 14), Grid(28, 28)
    cells = torch.stack(
        torch.meshgrid(*(torch.arange(14.0) for _ in old), indexing="ij"), -1
    ).flatten(0, 1)[None]
    right = resize(cells, old, new, "nearest")
    wanted = cells.unflatten(1, old).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(right, wanted.flatten(1, 2))
    flat = resize(cells, old, new, "nearest_flat")
    kept = (flat == right).all(-1).double().mean().item()
    assert kept == pytest.approx(0.0714, abs=1e-4)


@pytest.mark.parametrize("scheme", ["divided", "joint"])
def test_positions_belong_to_their_places_in_space_and_time(scheme):
    """With tables that hold coordinates and no pixels, tokens are those coordinates."""
    model = tiny_timesformer(attention_type=scheme, num_frames=3)
    with torch.no_grad():
        for parameter in (*model.patch_embed.parameters(), model.time_embed):
            parameter.zero_()
        model.pos_embed.zero_()
        model.pos_embed[:, 1:, :2] = coordinates(Grid(3, 5))
        model.time_embed[0, :, 2] = torch.linspace(0, 1, 3)
    tokens = model.embed(torch.zeros(1, 5, 3, 64, 112, dtype=torch.float64))
    placed = tokens.x[0, 1:, :3].unflatten(0, (5, 4, 7))
    torch.testing.assert_close(
        placed[2, 1, 3], torch.tensor([1 / 3, 0.5, 0.5]).double()
    )
    torch.testing.assert_close(placed[4, 3, 0], torch.tensor([1.0, 0.0, 1.0]).double())


# the contract of every model


ALL_KINDS = [
    *({"attention_type": scheme} for scheme in SCHEMES),
    {"attention_type": "axial", "class_token_in": "every_step", "reg_tokens": 2},
    {
        "attention_type": "local_global",
        "class_token_in": "every_step",
        "init_values": 0.1,
    },
    {"attention_type": "space", "global_pool": "avg", "class_token": False},
    {"attention_type": "divided", "global_pool": "map", "class_token": False},
    {"attention_type": "divided", "global_pool": "token_avg", "drop_path_rate": 0.1},
    {"attention_type": "joint", "position": "none", "qk_norm": True, "in_chans": 5},
    {"attention_type": "divided", "patch_size": (16, 8), "norm_after_pool": True},
]


@pytest.mark.parametrize("changes", ALL_KINDS)
def test_every_kind_keeps_the_model_contract(changes):
    model = tiny_timesformer(**changes)
    x = clips(channels=model.config.in_chans)
    logits = model(x)
    features = model.forward_features(x)
    columns = 80 // model.config.patch_hw[1]
    assert features.patches.shape == (2, FRAMES, 3, columns, 24)
    assert (features.cls is None) is not model.config.class_token
    assert torch.allclose(model.forward_head(features), logits, atol=1e-12)
    copy = tiny_timesformer(**changes)
    randomise(copy, seed=3)
    assert not torch.equal(copy(x), logits)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(x), logits)
    alone = torch.cat([model(x[:1]), model(x[1:])])
    assert torch.allclose(alone, logits, atol=1e-12)


@pytest.mark.parametrize("changes", ALL_KINDS)
def test_every_parameter_gets_a_gradient(changes):
    model = tiny_timesformer(**changes).train()
    torch.manual_seed(1)
    model(clips(channels=model.config.in_chans)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_freezing_and_the_order_of_layers(scheme):
    model = tiny_timesformer(attention_type=scheme, depth=3, drop_rate=0.5)
    layers = {name: model.layer_index(name) for name, _ in model.named_parameters()}
    if scheme != "space":
        assert layers["time_embed"] == 0
    steps = STEPS[scheme]
    first = f"{steps[0].name}_attn" if steps[0].name else "attn"
    assert layers[f"blocks.1.{first}.qkv.weight"] == 2
    model.freeze(2)
    model.train()
    model(clips()).sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {layers[name] for name in learning} == {3, 4}


def test_stochastic_depth_drops_a_clip_whole():
    model = tiny_timesformer(depth=1, drop_path_rate=0.0)
    assert isinstance(model.blocks[0], ClipBlock)
    for name, module in model.blocks[0].named_modules():
        if name.endswith(("drop_path", "drop_path1", "drop_path2")):
            module.rate = 1.0
    tokens = model.embed(clips())
    model.train()
    assert torch.equal(model.forward_blocks(tokens).x, tokens.x)


def test_own_folder_comes_back(tmp_path):
    model = tiny_timesformer(
        attention_type="axial", class_token_in="every_step", time_resize="nearest"
    )
    vt.save(tmp_path, model, Preprocess(image_size=(48, 80)))
    back = vt.load(tmp_path).model
    assert back.config == model.config
    with torch.no_grad():
        assert torch.equal(back(clips()), model(clips()))


def test_the_attention_of_every_step_can_be_looked_at():
    model = tiny_timesformer(depth=1)
    time, space = iter_attention(model, clips())
    assert time.weights.shape == (2 * 15, 3, FRAMES, FRAMES)
    assert space.weights.shape == (2 * FRAMES, 3, 16, 16)
    assert not time.is_global
    torch.testing.assert_close(space.weights.sum(-1), torch.ones(8, 3, 16).double())


def test_patches_of_every_frame_get_a_colour():
    found = feature_colors(tiny_timesformer(), clips())
    assert found.shape == (2, FRAMES, 3, 5, 3)


# names and errors


def test_names_of_others():
    config = models.get_config("facebook/timesformer-hr-finetuned-k400")
    assert (config.num_frames, config.image_hw) == (16, (448, 448))
    base = models.get_config("facebook/timesformer-base-finetuned-ssv2")
    assert (base.num_frames, models.get_model_name(base)) == (8, "timesformer_b16")
    long = models.get_config("timesformer_b16_long", {"attention_type": "joint"})
    assert (long.num_frames, models.get_model_name(long)) == (
        96,
        "timesformer_b16_long",
    )


def test_models_for_images_have_no_frames():
    assert models.get_config("vit_ti16").num_frames == 0
    assert models.get_config("bit_r26x1").num_frames == 0
    assert dataclasses.replace(tiny_timesformer().config, num_frames=5).num_frames == 5


def clip_of(*shape):
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: tiny_timesformer()(images()),
            r"takes clips .batch, frames, channels, height, width.: got .2, 3, 48, 80."
            r"\. Images .*by `images.:, None.`",
        ),
        (
            lambda: tiny_vit()(clips()),
            r"takes images .batch, channels, height, width.: got .2, 4, 3, 48, 80.. "
            r"The frames of clips become images by `clips.flatten.0, 1.`",
        ),
        (
            lambda: tiny_timesformer()(clip_of(2, 0, 3, 48, 80)),
            "at least one frame: got .2, 0, 3, 48, 80., which has none",
        ),
        (
            lambda: tiny_timesformer()(clip_of(2, 3, 4, 48, 80)),
            "images of 3 channels: got 4. Conv",
        ),
        (
            lambda: tiny_timesformer()(clip_of(2, 4, 3, 48, 81)),
            "got width 81 and 16. The nearest sizes that fit are 80 and 96",
        ),
        (
            lambda: tiny_timesformer(num_frames=0),
            "`num_frames` must be at least 1, .* got 0",
        ),
        (lambda: tiny_timesformer(position="relative"), "got `position=relative`"),
        (
            lambda: tiny_timesformer()(clips(), torch.ones(2, 3, 5, dtype=torch.bool)),
            "`patch_mask` cannot be used with clips",
        ),
        (
            lambda: models.create("timesformer_b17"),
            "Unknown model `timesformer_b17`. The nearest names are timesformer_b16",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        call()


def test_dropout_sits_where_the_image_models_is():
    model = tiny_timesformer(attention_type="axial", drop_rate=0.5, depth=2)
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert len(drops) == 1 + 2 * (3 + 2)
    assert torch.equal(model(clips()), model(clips()))
    model.train()
    assert not torch.equal(model(clips()), model(clips()))
