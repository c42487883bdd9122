"""Patch dropout: which patches stay, what the rest computes, and what refuses it."""

import math

import pytest
import timm
import torch
from torch import nn

from helpers import TINY, TINY_TNT, images, randomise, tiny_vit
from vitral.errors import ConfigError
from vitral.layers import PatchDropout, gather_tokens, num_kept, scatter_tokens
from vitral.models import DeiTConfig, TNTConfig, ViT, build_model, get_config
from vitral.models.hybrid import Hybrid, HybridConfig
from vitral.tasks.representation.mae import MAE, MAEConfig
from vitral.tasks.representation.masked_patch import MaskedPatch, MaskedPatchConfig

KEPT = torch.tensor([[0, 3, 4, 9, 11, 14], [1, 2, 6, 7, 10, 13]])
"""Of 3 x 5 patches of two images."""


class Chosen(PatchDropout):
    """Keeps what it was told, in training mode."""

    def forward(self, patches):
        return KEPT if self.training else None


def dropping(model: ViT) -> ViT:
    model.patch_drop = Chosen(0.6)
    return model.train()


def taking_part() -> torch.Tensor:
    mask = torch.zeros(2, 15, dtype=torch.bool)
    for row, kept in enumerate(KEPT.tolist()):
        mask[row, kept] = True
    return mask.unflatten(1, (3, 5))


def test_how_many_stay():
    assert [num_kept(15, rate) for rate in (0.5, 0.8, 0.1, 0.99)] == [7, 3, 13, 1]
    assert num_kept(196, 0.5) == 98
    assert num_kept(20, 0.85) == 3


def test_each_image_keeps_its_own_patches_all_equally_often():
    layer = PatchDropout(0.4).train()
    torch.manual_seed(3)
    kept = layer(torch.zeros(2000, 15, 2))
    assert kept.shape == (2000, 9)
    assert (kept.diff(dim=1) > 0).all()
    counts = torch.bincount(kept.flatten(), minlength=15) / 2000
    # Five standard deviations of a share of 0.6 of 2,000.
    assert (counts - 0.6).abs().max() < 5 * math.sqrt(0.24 / 2000)
    assert len({tuple(row) for row in kept.tolist()}) > 1000
    torch.manual_seed(3)
    assert torch.equal(layer(torch.ones(2000, 15, 2)), kept)


def test_rows_and_the_way_back():
    x = torch.arange(12.0).reshape(2, 3, 2)
    index = torch.tensor([[0, 2], [1, 2]])
    rows = gather_tokens(x, index)
    assert rows.tolist() == [[[0, 1], [4, 5]], [[8, 9], [10, 11]]]
    back = scatter_tokens(rows, index, 3)
    assert back.tolist() == [[[0, 1], [0, 0], [4, 5]], [[0, 0], [8, 9], [10, 11]]]
    flags = scatter_tokens(torch.ones(2, 2, dtype=torch.bool), index, 3)
    assert flags.tolist() == [[True, False, True], [False, True, True]]


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.6, False)])
def test_nothing_is_left_out_and_nothing_drawn(rate, training):
    plain = tiny_vit()
    model = tiny_vit(patch_drop_rate=rate).train(training)
    before = torch.get_rng_state()
    logits = model(images())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits, plain(images()))
    features = model.forward_features(images())
    assert features.mask is None
    assert model.embed(images()).keep_indices is None


@pytest.mark.parametrize(
    "changes",
    [
        {"global_pool": "token"},
        {"global_pool": "avg", "class_token": True},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "map"},
    ],
)
def test_equal_to_timm_for_the_same_patches(changes):
    model = dropping(tiny_vit(act="gelu", reg_tokens=2, **changes))
    other = timm.models.VisionTransformer(
        img_size=(48, 80),
        patch_size=16,
        num_classes=7,
        embed_dim=24,
        depth=2,
        num_heads=3,
        mlp_ratio=40 / 24,
        reg_tokens=2,
        patch_drop_rate=0.6,
        fc_norm=False,
        **changes,
    ).double()
    own = model.state_dict()
    if "map" in changes.values():
        # timm shapes the latent as ours and gives its perceptron 4 times the width.
        other.attn_pool.mlp.fc1 = nn.Linear(24, 40).double()
        other.attn_pool.mlp.fc2 = nn.Linear(40, 24).double()
        other.attn_pool.mlp.act = nn.GELU()
    other.load_state_dict(own)
    prefix = model.config.num_prefix_tokens

    class Same(nn.Module):
        def forward(self, x):
            index = KEPT[:, :, None].expand(-1, -1, x.shape[2]) + prefix
            return torch.cat([x[:, :prefix], x.gather(1, index)], dim=1)

    assert isinstance(other.patch_drop, nn.Module)
    other.patch_drop = Same()
    other.train()
    logits, expected = model(images()), other(images())
    assert torch.allclose(logits, expected, atol=1e-10)
    logits.square().sum().backward()
    expected.square().sum().backward()
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, theirs[name].grad, atol=1e-8), name


def test_timm_keeps_as_many():
    other = timm.layers.PatchDropout(0.6, num_prefix_tokens=3).train()
    assert other(torch.zeros(2, 18, 4)).shape[1] == 3 + num_kept(15, 0.6)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "learned_2d"},
        {"position": "sincos_2d", "global_pool": "token_avg"},
        {"position": "none", "global_pool": "avg"},
        {"position_at": "every_layer", "global_pool": "avg"},
        {"position_at": "every_layer_shared", "position": "learned_2d"},
        {"position_at": "every_layer", "reg_tokens": 2, "no_embed_reg": True},
    ],
)
def test_left_out_is_as_if_masked(changes):
    # A masked patch is seen and pooled by nobody, so its absence changes nothing.
    model = tiny_vit(**changes)
    expected = model.eval()(images(), taking_part())
    assert torch.allclose(dropping(model)(images()), expected, atol=1e-10)
    features = model.forward_features(images())
    assert torch.equal(features.mask, taking_part())
    assert torch.equal(
        features.patches[~taking_part()], torch.zeros(18, 24, dtype=torch.float64)
    )
    masked = model.eval().forward_features(images(), taking_part())
    seen = taking_part()
    assert torch.allclose(features.patches[seen], masked.patches[seen], atol=1e-10)
    assert torch.allclose(model.train().forward_head(features), expected, atol=1e-10)


def test_a_patch_mask_and_dropout_together():
    model = tiny_vit(global_pool="avg")
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[0, 2], mask[1, :, 1], mask[1, 2, 3] = False, False, False
    both = mask & taking_part()
    assert both.flatten(1).sum(1).tolist() == [4, 3]
    expected = model.eval()(images(), both)
    assert torch.allclose(dropping(model)(images(), mask), expected, atol=1e-10)


def test_deit_keeps_both_of_its_tokens():
    model = build_model(DeiTConfig(**TINY)).double()
    randomise(model)
    expected = model.eval()(images(), taking_part())
    dropping(model)
    assert torch.allclose(model(images()), expected, atol=1e-10)
    assert model.embed(images()).x.shape == (2, 2 + 6, 24)
    features = model.forward_features(images())
    assert features.distillation.shape == (2, 24)


def test_hybrid_drops_patches_of_its_map():
    settings = {**TINY, "units": (1,), "stem_width": 8, "num_groups": 4}
    model = Hybrid(HybridConfig(**settings)).double()
    randomise(model)
    model.eval()
    tokens = model.build_sequence(
        model.patch_embed(images()), model.config.grid, taking_part()
    )
    expected = model.forward_tokens(tokens)
    assert torch.allclose(dropping(model)(images()), expected, atol=1e-10)


def test_another_image_size_drops_its_share():
    model = tiny_vit(patch_drop_rate=0.6).train()
    assert model.embed(images(height=32, width=112)).keep_indices.shape == (2, 5)
    assert model(images(height=32, width=112)).shape == (2, 7)


def test_a_frozen_stem_leaves_nothing_out():
    model = tiny_vit(patch_drop_rate=0.6)
    model.freeze(0)
    assert model.train().embed(images()).keep_indices is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: tiny_vit(patch_drop_rate=1.0), r"must lie in \[0, 1\): got 1.0"),
        (
            lambda: tiny_vit(patch_drop_rate=0.5, position="relative"),
            "cannot be used with `position=relative`, whose scores belong",
        ),
        (
            lambda: TNTConfig(**TINY_TNT, patch_drop_rate=0.5),
            "cannot be used with a TNT, whose words of every patch",
        ),
        (
            lambda: get_config("timesformer_ti16", {"patch_drop_rate": 0.5}),
            "cannot be used with a TimeSformer, whose steps need whole frames",
        ),
        (
            lambda: MAE(tiny_vit(patch_drop_rate=0.5), MAEConfig()),
            "objective chooses itself which patches .*`patch_drop_rate=0`, got 0.5",
        ),
        (
            lambda: MaskedPatch(tiny_vit(patch_drop_rate=0.5), MaskedPatchConfig()),
            "objective chooses itself which patches",
        ),
        (lambda: get_config("bit_r50x1", {"patch_drop_rate": 0.5}), "patch_drop_rate"),
    ],
)
def test_who_refuses(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()
