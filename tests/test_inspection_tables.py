"""Distances, positions, filters and colours: numbers of the paper and of others."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from attention_by_hand import eager, tiny_deit, tiny_hybrid, tiny_resnet
from helpers import images, tiny_vit
from vitral import inspection
from vitral.errors import ConfigError
from vitral.inspection.distance import head_distance, pair_distances
from vitral.layers import Grid
from vitral.models import ViT, ViTConfig

GOLDENS = [
    (2, 16, 13.65685, 10.92548, 13.65685, 22.62742),
    (14, 16, 116.49223, 115.90090, 161.03017, 294.15642),
    (7, 32, 115.50289, 113.19284, 150.60051, 271.52900),
    (16, 14, 116.56505, 116.11149, 162.32877, 296.98485),
    (24, 16, 200.04798, 199.70128, 283.46753, 520.43059),
]


@pytest.mark.parametrize("golden", GOLDENS)
def test_distances_of_uniform_attention(golden):
    side, patch, alone, with_class, corner, largest = golden
    grid, count = Grid(side, side), side * side
    pairs = pair_distances(grid, (patch, patch))
    assert inspection.uniform_distance(grid, (patch, patch)) == pytest.approx(
        alone, abs=1e-5
    )
    found = inspection.uniform_distance(grid, (patch, patch), num_prefix_tokens=1)
    assert found == pytest.approx(with_class, abs=1e-5)
    assert float(pairs[0].mean()) == pytest.approx(corner, abs=1e-5)
    assert float(pairs.max()) == pytest.approx(largest, abs=1e-5)
    for prefix, wanted in ((0, alone), (1, with_class)):
        tokens = count + prefix
        weights = torch.full((1, 2, tokens, tokens), 1 / tokens).double()
        distance = head_distance(weights, pairs, prefix)
        assert distance.tolist() == [[pytest.approx(wanted, abs=1e-5)] * 2]


def test_distances_of_a_rectangle_of_oblong_patches():
    """Patch 4 of 2 x 3 is one row down and one column on: 8 and 6 pixels away."""
    pairs = pair_distances(Grid(2, 3), (8, 6))
    assert pairs.shape == (6, 6)
    wanted = [0.0, 6.0, 12.0, 8.0, 10.0, math.hypot(8, 12)]
    assert pairs[0].tolist() == pytest.approx(wanted)
    assert torch.equal(pairs, pairs.T)


def test_distances_of_identity_and_of_the_right_neighbour():
    pairs = pair_distances(Grid(3, 5), (16.0, 16.0))
    identity = torch.eye(17).double().expand(2, 3, 17, 17)
    assert head_distance(identity, pairs, 2).count_nonzero() == 0
    weights = torch.zeros(1, 1, 16, 16).double()
    weights[0, 0, 1 + 6, 1 + 7] = 1.0
    # One interior query of 15 gives its 16 pixels; the others look at nothing.
    assert float(head_distance(weights, pairs, 1)) == pytest.approx(16 / 15)
    right = torch.zeros(1, 1, 15, 15).double()
    for query in range(15):
        neighbour = query + 1 if query % 5 < 4 else query - 1
        right[0, 0, query, neighbour] = 1.0
    assert float(head_distance(right, pairs, 0)) == pytest.approx(16.0)


@pytest.mark.parametrize(
    ("make", "prefix"), [(tiny_vit, 1), (tiny_deit, 2), (tiny_hybrid, 1)]
)
def test_distance_of_a_model_is_the_mean_over_its_images(make, prefix):
    model, five = make(), images(5)
    weights = eager(model, five).numpy()
    wanted = np.zeros((2, 3))
    for i in range(15):
        for j in range(15):
            pixels = 16 * math.hypot(i // 5 - j // 5, i % 5 - j % 5)
            wanted += weights[:, :, :, prefix + i, prefix + j].mean(0) * pixels / 15
    found = inspection.attention_distance(model, five, batch_size=2)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    whole = inspection.attention_distance(model, five)
    torch.testing.assert_close(whole, found)


def test_distance_of_oblong_patches():
    model = tiny_vit(patch_size=(24, 16))
    pairs = pair_distances(Grid(2, 5), (24, 16))
    wanted = head_distance(eager(model, images()).flatten(0, 1), pairs, 1)
    found = inspection.attention_distance(model, images())
    torch.testing.assert_close(found, wanted.view(2, 2, 3).mean(0))


def test_distance_of_other_sizes_and_without_images():
    model, other = tiny_vit(), images(3, 32, 112)
    pairs = pair_distances(Grid(2, 7), (16.0, 16.0))
    wanted = head_distance(eager(model, other).flatten(0, 1), pairs, 1)
    found = inspection.attention_distance(model, other)
    torch.testing.assert_close(found, wanted.view(3, 2, 3).mean(0))
    with pytest.raises(ConfigError, match="needs at least one image: got none"):
        inspection.attention_distance(model, images()[:0])


SIMILAR = [
    (tiny_vit, {}),
    (tiny_vit, {"reg_tokens": 3}),
    (tiny_vit, {"position": "learned_2d"}),
    (tiny_vit, {"position": "sincos_2d"}),
    (tiny_vit, {"position": "relative"}),
    (tiny_vit, {"class_token": False, "global_pool": "avg"}),
    (tiny_deit, {}),
    (tiny_hybrid, {}),
]


@pytest.mark.parametrize(("make", "changes"), SIMILAR)
def test_position_similarity_is_a_cosine(make, changes):
    found = inspection.position_similarity(make(**changes))
    assert found.shape == (15, 15)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.diagonal(), torch.ones(15).double())
    torch.testing.assert_close(found, found.T)
    assert -1 <= float(found.min()) < 0.9


def test_position_similarity_is_of_patch_rows_only():
    model = tiny_deit()
    rows = model.pos_embed.detach()[0, 2:].numpy()
    wanted = np.empty((15, 15))
    for i in range(15):
        for j in range(15):
            norms = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
            wanted[i, j] = rows[i] @ rows[j] / norms
    found = inspection.position_similarity(model)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    with torch.no_grad():
        model.pos_embed[0, :2] += 5.0
        model.pos_embed[0, 7] *= 3.0
    again = inspection.position_similarity(model)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)
    with torch.no_grad():
        model.pos_embed[0, 7] = 0.0
    without = inspection.position_similarity(model)
    assert without[5].count_nonzero() == 0
    assert without.isfinite().all()


def test_position_similarity_of_relative_keys_by_their_lists():
    model = tiny_vit(position="relative", depth=3)
    for layer in (0, -1):
        table = model.blocks[layer].attn.relative.table.detach()
        lists = torch.stack([table[i : i + 15].flip(0).flatten() for i in range(15)])
        unit = lists / lists.norm(dim=1, keepdim=True)
        found = inspection.position_similarity(model, layer)
        torch.testing.assert_close(found, unit @ unit.T, rtol=0, atol=1e-12)


def test_position_similarity_of_a_table_of_its_own_per_layer():
    model = tiny_vit(position_at="every_layer", depth=3)
    rows = model.pos_embed.detach()[2, 1:]
    unit = rows / rows.norm(dim=1, keepdim=True)
    found = inspection.position_similarity(model, layer=2)
    torch.testing.assert_close(found, unit @ unit.T, rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match=r"There are 3 layers, .* got 3\."):
        inspection.position_similarity(model, layer=3)


def test_models_without_positions_say_so():
    for model in (tiny_vit(position="none"), tiny_resnet()):
        sentence = f"This {type(model).__name__} has no position embeddings, so there"
        with pytest.raises(ConfigError, match=sentence):
            inspection.position_similarity(model)


def test_filters_are_scikit_learns_components_up_to_sign():
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(16, 24), patch_size=(8, 6), embed_dim=48, depth=1, num_heads=4
    )
    model = ViT(config)
    rows = model.patch_embed.proj.weight.detach().double().permute(0, 2, 3, 1)
    theirs = PCA(28, svd_solver="full").fit(rows.reshape(48, -1).numpy())
    found, share = inspection.filter_components(model)
    assert found.shape == (28, 8, 6, 3)
    flat = found.reshape(28, -1).numpy()
    signs = np.sign((flat * theirs.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(flat, signs * theirs.components_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(share, theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(flat @ flat.T, np.eye(28), rtol=0, atol=1e-12)
    assert (share.diff() < 0).all()
    assert 0.5 < float(share.sum()) < 1
    assert (
        found.flatten(1).gather(1, found.flatten(1).abs().argmax(1, True)) > 0
    ).all()
    pictures = inspection.embedding_filters(model)
    assert pictures.shape == (28, 8, 6, 3)
    assert torch.equal(pictures.amin((1, 2, 3)), torch.zeros(28).double())
    assert torch.equal(pictures.amax((1, 2, 3)), torch.ones(28).double())
    first = found[3]
    wanted = (first - first.min()) / (first.max() - first.min())
    torch.testing.assert_close(pictures[3], wanted)


def test_more_filters_than_pixels():
    model = tiny_vit(patch_size=2, image_size=(4, 6), embed_dim=24)
    found, share = inspection.filter_components(model, 12)
    rows = model.patch_embed.proj.weight.detach().permute(0, 2, 3, 1).reshape(24, 12)
    theirs = PCA(12, svd_solver="full").fit(rows.numpy())
    np.testing.assert_allclose(share, theirs.explained_variance_ratio_, rtol=1e-9)
    flat = found.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(12).double())
    assert float(share.sum()) == pytest.approx(1)


@pytest.mark.parametrize("make", [tiny_hybrid, tiny_resnet])
def test_filters_of_a_stem_are_those_it_uses(make):
    model = make()
    assert inspection.embedding_filters(model, 7).shape == (7, 7, 7, 3)
    stem = model.stem if make is tiny_resnet else model.patch_embed.backbone.stem
    before, share = inspection.filter_components(model, 7)
    with torch.no_grad():
        # Standardisation takes off a filter's mean.
        stem.conv.weight[3] += 2
    after, _ = inspection.filter_components(model, 7)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    assert float(share.sum()) == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 24])
def test_how_many_filters_there_are(n):
    sentence = (
        r"`n` must lie between 1 and 23, because the first layer has 24 filters of "
        rf"16 x 16 pixels: got {n}\."
    )
    with pytest.raises(ConfigError, match=sentence):
        inspection.embedding_filters(tiny_vit(), n)


@pytest.mark.parametrize("make", [tiny_vit, tiny_deit, tiny_hybrid, tiny_resnet])
def test_feature_colours_are_three_components(make):
    model, five = make(), images(5)
    found = inspection.feature_colors(model, five)
    with torch.no_grad():
        patches = model.forward_features(five).patches
    assert found.shape == (*patches.shape[:-1], 3)
    assert float(found.min()) == 0
    assert float(found.max()) == 1
    rows = patches.flatten(0, -2).numpy()
    theirs = PCA(3, svd_solver="full").fit_transform(rows)
    flat = found.reshape(-1, 3).numpy()
    for channel in range(3):
        low, high = np.quantile(theirs[:, channel], [0.01, 0.99])
        wanted = np.clip((theirs[:, channel] - low) / (high - low), 0, 1)
        same = np.abs(flat[:, channel] - wanted).max()
        turned = np.abs(flat[:, channel] - (1 - wanted)).max()
        assert min(same, turned) < 1e-6
        assert max(same, turned) > 0.1


def test_colours_of_a_flat_picture_and_of_too_few_patches():
    model = tiny_vit(position="none")
    flat = torch.full((2, 3, 48, 80), 0.5).double()
    assert inspection.feature_colors(model, flat).count_nonzero() == 0
    with pytest.raises(ConfigError, match="got 3 patches of 24 channels"):
        inspection.feature_colors(model, images(1, 16, 48))
