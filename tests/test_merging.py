"""Token merging: by hand, against loops, and the promises that can be exact."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attention_by_hand import tiny_deit, tiny_hybrid, tiny_resnet
from helpers import TINY, TINY_TNT, images, randomise, tiny_vit
from merging_by_hand import encoded
from vitral import inspection
from vitral.errors import ConfigError
from vitral.layers import (
    MergeState,
    expand_weights,
    initial_merge_state,
    merge,
    merge_matrix,
    num_merged,
)
from vitral.models import (
    TNTConfig,
    ViTConfig,
    build_model,
    create,
    get_config,
    set_merge,
    without_merging,
)
from vitral.workflows.train.frozen_cache import frozen_output

VARIANTS = {
    "class token": {},
    "registers": {"reg_tokens": 2, "init_values": 0.3},
    "mean": {"global_pool": "avg", "class_token": False},
    "both": {"global_pool": "token_avg", "qk_norm": True, "mlp": "swiglu"},
    "map": {"global_pool": "map", "class_token": False, "qkv_bias": False},
    "relative": {"position": "relative", "global_pool": "avg"},
    "relative bias": {
        "position": "relative_bias",
        "position_resize": "geometric",
        "global_pool": "avg",
    },
    "2-D in every layer": {"position": "learned_2d", "position_at": "every_layer"},
    "shared": {"position_at": "every_layer_shared", "global_pool": "avg"},
    "sin-cos": {"position": "sincos_2d", "norm_after_pool": True, "global_pool": "avg"},
    "none": {"position": "none", "representation_size": 11},
}
MAKERS = {
    **{name: (tiny_vit, changes) for name, changes in VARIANTS.items()},
    "deit": (tiny_deit, {"reg_tokens": 3}),
    "hybrid": (tiny_hybrid, {}),
}


def test_five_patches_by_hand():
    # A is at places 0, 2, 4; B at 1, 3. Cosines with B: 0: (0.6, 0.8), 2: (1, 0),
    # 4: (0, 1). The two best edges are 2 -> 1 and 4 -> 3.
    keys = torch.tensor([[[9.0, 9], [0.6, 0.8], [2, 0], [5, 0], [0, 3], [0, 7]]])
    x = torch.tensor([[[100.0], [1], [2], [4], [8], [16]]])
    before = initial_merge_state(x, 1, None)
    before = before._replace(size=torch.tensor([[1.0, 1, 3, 1, 1, 1]]))
    left, after = merge(x, keys, 2, before)
    # Patch 2 (4, size 1) into patch 1 (2, size 3); patch 4 (16) into patch 3 (8).
    assert left.flatten().tolist() == [100, 1, 2.5, 12]
    assert after.size.tolist() == [[1, 1, 4, 2]]
    assert after.source.tolist() == [[1, 2, 2, 3, 3]]
    left, last = merge(left, torch.tensor([[[0.0], [1], [2], [3]]]), 1, after)
    # Of three patches A has the first and the third, both point at the middle one.
    assert left.shape == (1, 3, 1)
    assert sorted(last.size[0].tolist()) in ([1, 2, 5], [1, 1, 6])
    assert last.source[0].tolist() in ([2, 2, 2, 1, 1], [1, 2, 2, 2, 2])


def test_hidden_patches_go_first_and_take_nothing_along():
    x = torch.tensor([[[1.0], [2], [4], [8], [16], [32]]])
    # The best match of patch 0 is patch 1, which is hidden, as patches 4 and 3 are.
    keys = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [1, 0.1]]])
    takes_part = torch.tensor([[True, False, True, False, False, True]])
    left, after = merge(x, keys, 2, initial_merge_state(x, 0, takes_part))
    # First 4 goes anywhere, then 0 joins 5, (1 + 32) / 2; hidden ones become 0.
    assert left.flatten().tolist() == [4, 0, 0, 16.5]
    assert after.size.tolist() == [[1, 0, 0, 2]]
    assert after.source[0, [0, 1, 2, 3, 5]].tolist() == [3, 1, 0, 2, 3]
    assert after.takes_part is takes_part or torch.equal(after.takes_part, takes_part)


def test_how_many_are_merged():
    assert [num_merged(15, rate) for rate in (0, 4, 7, 8, 99)] == [0, 4, 7, 7, 7]
    assert num_merged(1, 5) == 0
    rates = ViTConfig(merge_rate=8).merge_rates
    assert rates == (8,) * 12
    falling = ViTConfig(merge_rate=8, merge_schedule="decreasing").merge_rates
    assert falling == (16, 14, 13, 12, 10, 9, 7, 6, 4, 3, 2, 0)
    assert sum(falling) == 96
    rarely = ViTConfig(merge_rate=8, merge_schedule="every_fourth").merge_rates
    assert rarely == (0, 32, 0, 0) * 3
    assert ViTConfig(
        depth=1, merge_rate=3, merge_schedule="decreasing"
    ).merge_rates == (3,)


@pytest.mark.parametrize("schedule", ["constant", "decreasing", "every_fourth"])
@pytest.mark.parametrize("kind", MAKERS)
def test_equal_to_loops(kind, schedule):
    make, changes = MAKERS[kind]
    model = make(depth=3, **changes)
    plain = model(images())
    set_merge(model, 3, schedule)
    tokens = model.forward_blocks(model.embed(images()))
    features = model.forward_norm(tokens)
    prefix = model.config.num_prefix_tokens
    for index in range(2):
        x, sizes, groups = encoded(model, images()[index], model.config.merge_rates)
        torch.testing.assert_close(tokens.x[index], x, rtol=0, atol=1e-10)
        assert tokens.merged.size[index].tolist() == sizes
        for place, group in enumerate(groups[prefix:]):
            for patch in group:
                assert features.source[index].flatten()[patch] == place
                vector = features.patches[index].flatten(0, 1)[patch]
                expected = model.norm(x[prefix + place])
                torch.testing.assert_close(vector, expected, rtol=0, atol=1e-10)
    logits = model(images())
    torch.testing.assert_close(logits, model.forward_head(features), rtol=0, atol=1e-12)
    assert not torch.allclose(logits, plain, atol=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
def test_off_and_in_training_nothing_changes(kind):
    make, changes = MAKERS[kind]
    model = make(**changes)
    plain, training = model(images()), model.train()(images())
    set_merge(model, 5)
    assert torch.equal(model.train()(images()), training)
    assert not torch.equal(model.eval()(images()), plain)
    with without_merging(model):
        assert torch.equal(model(images()), plain)
    assert model.config.merge_rate == 5
    set_merge(model, 0)
    assert torch.equal(model(images()), plain)
    assert model.forward_features(images()).source is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reg_tokens": 2, "init_values": 0.3, "qk_norm": True},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "token_avg"},
        {"global_pool": "map", "class_token": False},
    ],
)
def test_equal_patches_merge_without_a_trace(changes):
    # Fourteen patches in pairs of neighbours, and one by itself; seven are merged.
    model = tiny_vit(position="none", **changes)
    pixels = images()
    for odd in range(1, 15, 2):
        (row, column), (old_row, old_column) = divmod(odd, 5), divmod(odd - 1, 5)
        pixels[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = pixels[
            :, :, 16 * old_row : 16 * old_row + 16, 16 * old_column :
        ][..., :16]
    plain, maps = model(pixels), inspection.relevance(model, pixels, 2)
    rolled = inspection.rollout(model, pixels)
    weights = inspection.attention(model, pixels)
    set_merge(model, 4, "decreasing")
    assert model.forward_features(pixels).source[0].max() == 7
    torch.testing.assert_close(model(pixels), plain, rtol=0, atol=1e-12)
    found = inspection.attention(model, pixels)
    torch.testing.assert_close(found, weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        inspection.rollout(model, pixels), rolled, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        inspection.relevance(model, pixels, 2), maps, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("kind", ["class token", "registers", "mean", "map", "shared"])
def test_hidden_patches_are_merged_for_nothing(kind):
    model = tiny_vit(**VARIANTS[kind])
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[:, 0, ::2], mask[:, 2], mask[1, 1, 1] = False, False, False
    plain = model(images(), mask)
    pooled = model.forward_features(images(), mask)
    # Eight or more are hidden, at least four of them at even places.
    set_merge(model, 2, "decreasing")
    torch.testing.assert_close(model(images(), mask), plain, rtol=0, atol=1e-12)
    features = model.forward_features(images(), mask)
    assert torch.equal(features.mask, mask)
    seen = pooled.patches[mask]
    torch.testing.assert_close(features.patches[mask], seen, rtol=0, atol=1e-12)
    set_merge(model, 6)
    other = model(images(), mask)
    assert other.isfinite().all()
    changed = images().clone()
    changed[:, :, 32:] = 5.0  # a row of patches that nobody sees
    torch.testing.assert_close(model(changed, mask), other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["class token", "mean", "relative", "relative bias"])
def test_maps_of_a_merged_model_have_the_geometry_of_the_image(kind):
    model = tiny_vit(depth=3, **VARIANTS[kind])
    prefix = model.config.num_prefix_tokens
    set_merge(model, 4)
    weights = inspection.attention(model, images())
    assert weights.shape == (2, 3, 3, prefix + 15, prefix + 15)
    ones = torch.ones_like(weights[..., 0])
    torch.testing.assert_close(weights.sum(-1), ones, rtol=0, atol=1e-12)
    matrix = inspection.rollout_matrix(model, images())
    torch.testing.assert_close(matrix.sum(-1), ones[:, 0, 0], rtol=0, atol=1e-12)
    source = model.forward_blocks(model.embed(images()), 0, 2).merged.source
    for one in range(15):
        for other in range(15):
            if source[0, one] == source[0, other]:
                rows = weights[0, 2, :, prefix + one], weights[0, 2, :, prefix + other]
                torch.testing.assert_close(*rows, rtol=0, atol=1e-14)
                columns = [weights[0, 2, :, :, prefix + p] for p in (one, other)]
                torch.testing.assert_close(*columns, rtol=0, atol=1e-14)
    assert inspection.rollout(model, images()).shape == (2, 3, 5)
    relevance = inspection.relevance(model, images(), 1)
    assert relevance.shape == (2, 3, 5)
    assert relevance.max() == 1
    for layer in (0, 2):
        assert inspection.grad_cam(model, images(), 1, layer=layer).shape == (2, 3, 5)
    assert inspection.attention_distance(model, images()).shape == (3, 3)
    assert inspection.feature_colors(model, images()).shape == (2, 3, 5, 3)
    assert inspection.residual_profile(model, images()).shape == (4,)
    assert model.config.merge_rate == 4


def test_rollout_conserves_what_each_token_holds():
    """In tokens, not patches: average the rows of what merges, and go on."""
    model = tiny_vit(depth=3)
    set_merge(model, 4)
    tokens = model.embed(images())
    matrix = torch.eye(16).double().expand(2, -1, -1)
    for layer in range(3):
        block, before = model.blocks[layer], tokens
        tokens = model.forward_blocks(tokens, layer, layer + 1)
        weights = block.attn.attention_weights(
            block.norm1(before.x), model.config.grid, None, before.merged
        )
        matrix = (weights.mean(1) + torch.eye(before.x.shape[1])) / 2 @ matrix
        if before.merged is None:
            before = before._replace(merged=initial_merge_state(before.x, 1, None))
        old, new = merge_matrix(before.merged), merge_matrix(tokens.merged)
        matrix = new @ (old > 0).double().transpose(1, 2) @ matrix
    row = matrix[:, 0, 1:]
    wanted = (row / row.amax(1, keepdim=True)).unflatten(1, (3, 5))
    found = inspection.rollout(model, images())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_spread_by_hand():
    weights = torch.tensor([[[[0.2, 0.8], [0.6, 0.4]]]])
    merged = MergeState(torch.tensor([[1.0, 2]]), torch.tensor([[1, 1]]), 1)
    found = expand_weights(weights, merged)
    wanted = [[0.2, 0.4, 0.4], [0.6, 0.2, 0.2], [0.6, 0.2, 0.2]]
    torch.testing.assert_close(found, torch.tensor([[wanted]]))


def test_a_frozen_prefix_is_kept_as_training_computes_it():
    model = tiny_vit(merge_rate=4)
    model.freeze(1)
    plain = tiny_vit()
    plain.freeze(1)
    found = frozen_output(model.eval(), images())
    assert torch.equal(found, frozen_output(plain, images()))
    assert model.config.merge_rate == 4


@pytest.mark.parametrize("kind", ["class token", "mean", "map", "deit"])
def test_macs_are_those_of_the_pass(kind):
    make, changes = MAKERS[kind]
    model = make(depth=3, **changes).float()
    before = model.config.macs()
    set_merge(model, 4)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.forward_head(model.forward_features(images(1).float()))
    joins = sum(
        (n // 2) * min(4, n // 2) * (model.config.embed_dim + 1) for n in (15, 11, 7)
    )
    # The products that add merged rows up are too small to be worth a formula.
    assert counter.get_total_flops() / 2 - joins == model.config.macs()
    assert model.config.macs() < before


def test_half_precision_keeps_sizes_whole():
    model = tiny_vit(global_pool="avg").bfloat16()
    set_merge(model, 4)
    tokens = model.forward_blocks(model.embed(images().bfloat16()))
    assert tokens.x.dtype == torch.bfloat16
    assert tokens.merged.size.dtype == torch.float32
    assert tokens.merged.size.sum(1).tolist() == [16, 16]


def test_another_image_size():
    model = tiny_vit(merge_rate=4)
    features = model.forward_features(images(height=32, width=112))
    assert features.patches.shape == (2, 2, 7, 24)
    assert (
        model.forward_blocks(model.embed(images(height=32, width=112))).x.shape[1]
        == 1 + 6
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: tiny_vit(merge_rate=-1),
            "`merge_rate` must lie between 0 and 1048576: got -1",
        ),
        (
            lambda: set_merge(tiny_vit(), -3),
            "`merge_rate` must lie between 0 and 1048576: got -3",
        ),
        (lambda: set_merge(tiny_resnet(), 4), "A ResNet cannot merge tokens.*got 4"),
        (
            lambda: TNTConfig(**TINY_TNT, merge_rate=2),
            "cannot be used with a TNT, whose words",
        ),
        (
            lambda: set_merge(create("timesformer_ti16", depth=1), 2),
            "cannot be used with a TimeSformer, whose steps need whole frames",
        ),
        (lambda: get_config("bit_r50x1", {"merge_rate": 2}), "merge_rate"),
    ],
)
def test_who_refuses(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_a_resnet_may_be_told_to_merge_nothing():
    set_merge(tiny_resnet(), 0)


def test_exported_as_it_runs():
    # In a process of its own: shape checks wrap the functions here.
    script = Path(__file__).with_name("merging_export.py")
    paths = os.pathsep.join([str(script.parents[1] / "src"), str(script.parent)])
    subprocess.run(
        [sys.executable, str(script)],
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_settings_travel():
    model = build_model(ViTConfig(**TINY, merge_rate=3, merge_schedule="decreasing"))
    randomise(model)
    assert model.config.merge_rates == (6, 0)
