"""Inspection of a TNT: its outer layers as a ViT's, its inner ones patch by patch."""

import numpy as np
import pytest
import torch

from attention_by_hand import hooks
from helpers import images, tiny_tnt, tiny_vit
from test_inspection_attention import a_mask
from test_inspection_maps import by_numpy
from tnt_by_hand import by_hand
from vitral import inspection
from vitral.errors import ConfigError
from vitral.inspection.distance import head_distance, pair_distances
from vitral.inspection.maps import sum_target_logits
from vitral.layers import Attention, Grid
from vitral.models import TNT

OUTER = [1, 3, 5]
INNER = [0, 2, 4]


def tiny(**changes) -> TNT:
    return tiny_tnt(in_chans=3, **changes)


def test_weights_of_both_kinds_of_layers():
    model = tiny()
    hand = by_hand(model, images())
    found = inspection.attention(model, images(), layers=OUTER)
    torch.testing.assert_close(found, hand.outer, rtol=0, atol=1e-13)
    found = inspection.attention(model, images(), layers=INNER)
    assert found.shape == (2 * 15, 3, 2, 8, 8)
    wanted = hand.inner.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    one = inspection.attention(model, images(), layers=[-1], heads=[2])
    torch.testing.assert_close(one, hand.outer[:, -1:, 2:], rtol=0, atol=1e-13)
    assert hooks(model) == 0
    with pytest.raises(ConfigError, match=r"layer 1 has weights \[2, 3, 16, 16\], one"):
        inspection.attention(model, images())


def test_each_layer_says_what_its_tokens_are():
    model, mask = tiny(), a_mask()
    seen = list(inspection.iter_attention(model, images(), patch_mask=mask))
    assert [layer.index for layer in seen] == [0, 1, 2, 3, 4, 5]
    for layer in seen:
        assert layer.is_global is (layer.index % 2 == 1)
        assert layer.grid == (Grid(3, 5) if layer.is_global else Grid(4, 2))
        assert layer.num_prefix_tokens == int(layer.is_global)
        assert (layer.mask is not None) is layer.is_global
        assert torch.allclose(
            layer.weights.sum(-1).amax(), torch.ones(()).double(), atol=1e-12
        )
    hidden = torch.nn.functional.pad(~mask.flatten(1), (1, 0))
    for layer in seen[1::2]:
        assert not layer.weights.transpose(1, 2)[hidden].any()
        assert layer.weights.transpose(1, 3)[hidden].abs().max() == 0


def test_a_single_patch_of_as_many_words_as_tokens_is_told_apart():
    """One patch and its class token are two tokens, and the patch has two words."""
    model = tiny(image_size=16, word_size=(16, 8), word_kernel=31)
    layers = list(inspection.iter_attention(model, images(2, 16, 16)))
    assert {tuple(layer.weights.shape[2:]) for layer in layers} == {(2, 2)}
    assert [layer.is_global for layer in layers] == [False, True] * 3


def test_rollout_and_class_attention_are_of_the_outer_layers():
    model = tiny()
    outer = by_hand(model, images()).outer
    maps = inspection.rollout(model, images())
    for index in range(2):
        row = by_numpy(outer[index].numpy())[0, 1:]
        np.testing.assert_allclose(maps[index].flatten(), row / row.max(), atol=1e-12)
    found = inspection.class_attention(model, images())
    wanted = outer[:, -1, :, 0, 1:].unflatten(-1, (3, 5))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    with pytest.raises(ConfigError, match=r"Layer 4 attends to 8 tokens that are not"):
        inspection.class_attention(model, images(), layer=-2)


def test_distance_is_of_the_outer_layers():
    model, five = tiny(), images(5)
    outer = by_hand(model, five).outer
    pairs = pair_distances(Grid(3, 5), (16, 16))
    wanted = head_distance(outer.flatten(0, 1), pairs, 1).view(5, 3, 3).mean(0)
    found = inspection.attention_distance(model, five, batch_size=2)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("frozen", [False, True])
def test_relevance_equals_a_pass_that_keeps_its_weights(frozen):
    model, classes = tiny(), torch.tensor([6, 2])
    kept = []

    def watch(module: Attention):
        def forward(x, grid, mask=None):
            weights = module.attention_weights(x, grid, mask)
            weights.retain_grad()
            kept.append(weights)
            v = module.qkv(x).unflatten(-1, (3, 3, 8))[:, :, 2].transpose(1, 2)
            return module.proj((weights @ v).transpose(1, 2).flatten(2))

        return forward

    for block in model.blocks:
        block.outer.attn.forward = watch(block.outer.attn)
    sum_target_logits(model(images()), classes).backward()
    for block in model.blocks:
        del block.outer.attn.forward
    matrix = torch.eye(16).double()
    for weights in kept:
        positive = (weights.grad * weights.detach()).clamp(min=0).mean(1)
        matrix = matrix + positive @ matrix
    row = matrix[:, 0, 1:]
    wanted = (row / row.amax(1, keepdim=True)).view(2, 3, 5)
    model.zero_grad(set_to_none=True)
    # With every parameter frozen no word has a gradient at all.
    model.requires_grad_(not frozen)
    found = inspection.relevance(model, images(), classes)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    assert all(parameter.grad is None for parameter in model.parameters())
    hidden = inspection.relevance(model, images(), classes, patch_mask=a_mask())
    assert not hidden[~a_mask()].any()
    assert inspection.gradient_rollout(model, images(), classes).amax() == 1


def test_grad_cam_is_of_what_enters_the_last_block():
    model = tiny()
    tokens = model.forward_blocks(model.embed(images()), 0, 2)
    x = tokens.x.detach().requires_grad_()
    logits = model.forward_tokens(tokens._replace(x=x), 2)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), x)
    cells, slope = x.detach()[:, 1:], gradient[:, 1:].mean(1, keepdim=True)
    wanted = (cells * slope).sum(-1).relu().view(2, 3, 5)
    wanted = wanted / wanted.amax((1, 2), keepdim=True).clamp(min=1e-300)
    assert wanted.amax() == 1
    torch.testing.assert_close(inspection.grad_cam(model, images(), 3), wanted)


def test_rank_profiles_are_of_the_patch_tokens():
    model = tiny()
    found = inspection.residual_profile(model, images())
    assert found.shape == (4,)
    alone = inspection.residual_profile(model, images(), {"attn_skip", "mlp"})
    assert (alone[1:] != found[1:]).all()


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_word_attention_lies_as_the_words_lie(layer):
    model = tiny(patch_size=(16, 8), word_size=(8, 4))
    inner = by_hand(model, images()).inner[:, layer]
    wanted = torch.zeros(2, 2, 6, 20).double()
    for row in range(6):
        for column in range(20):
            patch = (row // 2) * 10 + column // 2
            word = (row % 2) * 2 + column % 2
            wanted[:, :, row, column] = inner[:, patch, :, :, word].mean(-1)
    found = inspection.word_attention(model, images(), layer)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    by_patch = found.unflatten(2, (3, 2)).unflatten(4, (10, 2)).sum((3, 5))
    torch.testing.assert_close(by_patch, torch.ones(2, 2, 3, 10).double())


def test_word_attention_says_no():
    with pytest.raises(ConfigError, match="A ViT has no words within its patches, so"):
        inspection.word_attention(tiny_vit(), images())
    with pytest.raises(ConfigError, match=r"There are 3 inner layers, .* got 3\."):
        inspection.word_attention(tiny(), images(), 3)
