"""Layers: the golden checks of initialisation, positions, attention and masks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers import images, tiny_vit
from vitral.errors import ConfigError
from vitral.layers import (
    Attention,
    AttentionPool,
    Block,
    DropPath,
    Grid,
    Mlp,
    PatchEmbed,
    RelativePosition,
    attention_mask,
    drop_path_rates,
    learned_2d,
    patch_grid,
    resize,
    sincos_2d,
)
from vitral.layers.mlp import activation

SMALL = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)


def test_patch_embedding_is_a_matrix_product_of_raster_patches():
    embed = PatchEmbed((4, 5), in_chans=3, embed_dim=7).double()
    nn.init.normal_(embed.proj.bias)
    image = images(2, 8, 15)
    patches = image.unfold(2, 4, 4).unfold(3, 5, 5)  # B C rows cols 4 5
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 2 * 3, 3 * 4 * 5)
    expected = patches @ embed.proj.weight.flatten(1).T + embed.proj.bias
    assert (embed(image) - expected).abs().max() < 1e-12


def test_permuting_two_patches_permutes_their_embeddings_only():
    embed = PatchEmbed((4, 4), in_chans=3, embed_dim=7).double()
    image = images(1, 8, 12)
    swapped = image.clone()
    swapped[..., :4, :4], swapped[..., 4:, 8:] = (
        image[..., 4:, 8:].clone(),
        image[..., :4, :4].clone(),
    )
    assert torch.equal(embed(swapped), embed(image)[:, [5, 1, 2, 3, 4, 0]])


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((225, 224), "got height 225 and 16. The nearest sizes that fit are 224 and 2"),
        ((224, 30), "got width 30 and 16. The nearest sizes that fit are 16 and 32"),
        ((224, 7), "got width 7 and 16"),
    ],
)
def test_size_that_is_no_multiple_of_the_patch(size, sentence):
    with pytest.raises(ConfigError, match=sentence):
        patch_grid(size, (16, 16))


def test_initialisation_of_b16():
    torch.manual_seed(0)
    dim = 768
    attention = Attention(dim, 12)
    for matrix in (*attention.qkv.weight.chunk(3), attention.proj.weight):
        assert matrix.abs().max() <= 0.0625
        assert matrix.abs().max() > 0.0624
        assert matrix.std().item() == pytest.approx(0.0625 / math.sqrt(3), rel=0.01)
    assert attention.qkv.bias.abs().max() == 0
    assert attention.proj.bias.abs().max() == 0
    mlp = Mlp(dim, 3072, act="gelu_tanh")
    for layer in (mlp.fc1, mlp.fc2):
        assert 0.0395 < layer.weight.abs().max() <= 0.03953
        assert layer.bias.std().item() == pytest.approx(1e-6, rel=0.1)
    patch = PatchEmbed((16, 16), 3, dim).proj
    assert patch.weight.std().item() == pytest.approx(1 / math.sqrt(768), rel=0.01)
    assert patch.weight.abs().max() <= 2 * 0.0361 / 0.8796
    assert patch.bias.abs().max() == 0


def test_map_probe_is_xavier_uniform_on_its_three_axes():
    torch.manual_seed(0)
    pool = AttentionPool(96, 4, 128, act="gelu")
    # fan-in 96 and fan-out 1 x 96, as flax counts them for shape (1, 1, 96)
    bound = math.sqrt(6 / (96 + 96))
    assert pool.latent.shape == (1, 1, 96)
    assert 0.9 * bound < pool.latent.abs().max() <= bound


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("gelu_tanh", 1, 0.8411919906),
        ("gelu_tanh", -1, -0.1588080094),
        ("gelu_tanh", 2.7, 2.6911124054),
        ("gelu_tanh", 3, 2.9963626079),
        ("gelu", 1, 0.8413447461),
        ("gelu", -1, -0.1586552539),
        ("gelu", 2.7, 2.6906391707),
        ("gelu", 3, 2.9959503059),
    ],
)
def test_gelu(name, x, y):
    value = activation(name)(torch.tensor(x, dtype=torch.float64))
    assert value.item() == pytest.approx(y, abs=1e-10)


def test_layer_norm_epsilon():
    norm = tiny_vit(norm_eps=1e-6).norm
    assert norm.eps == 1e-6
    pair = nn.LayerNorm(2, eps=norm.eps).double()(
        torch.tensor([0.0, 1e-3], dtype=torch.float64)
    )
    assert pair[1].item() == pytest.approx(0.4472136, abs=1e-7)


def test_attention_scale_is_that_of_one_head():
    attention = Attention(8, 2).double()
    nn.init.zeros_(attention.qkv.weight)
    with torch.no_grad():
        # queries and keys of one channel each: x_0, so logits are x_i x_j / sqrt(4)
        attention.qkv.weight[0, 0] = attention.qkv.weight[8, 0] = 1.0
    x = torch.zeros(1, 3, 8, dtype=torch.float64)
    x[0, :, 0] = torch.tensor([1.0, 2.0, -1.0])
    logits = x[0, :, :1] @ x[0, :, :1].T / 2
    weights = attention.attention_weights(x, Grid(1, 3))
    assert torch.allclose(weights[0, 0], logits.softmax(-1), atol=1e-14)
    assert torch.allclose(weights[0, 1], torch.full((3, 3), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_fused_attention_equals_its_weights(qk_norm):
    eps = 1e-6 if qk_norm else None
    attention = Attention(24, 3, qk_norm_eps=eps).double()
    nn.init.normal_(attention.qkv.bias)
    x = torch.randn(2, 11, 24, dtype=torch.float64)
    v = attention.qkv(x)[..., 48:].unflatten(-1, (3, 8)).transpose(1, 2)
    out = (attention.attention_weights(x, Grid(1, 11)) @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(attention(x, Grid(1, 11)), attention.proj(out), atol=1e-12)
    for count in (1, 2):
        first = attention.forward_queries(x, count)
        assert torch.allclose(first, attention.proj(out)[:, :count], atol=1e-12)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_one_query_learns_as_it_would_among_all(qkv_bias):
    attention = Attention(24, 3, qkv_bias=qkv_bias).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 11, 24, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 1, 24, dtype=torch.float64)
    gradients = []
    for first in (attention(x, Grid(1, 11))[:, :1], attention.forward_queries(x, 1)):
        score = (first * target).sum()
        gradients.append(torch.autograd.grad(score, [x, *attention.parameters()]))
    for among_all, alone in zip(*gradients, strict=True):
        assert torch.allclose(among_all, alone, atol=1e-12)


def test_a_hidden_key_gets_no_weight_and_a_hidden_query_uniform_ones():
    attention = Attention(24, 3)
    x = torch.randn(3, 5, 24)
    part = torch.ones(3, 5, dtype=torch.bool)
    part[0, 2] = False
    part[1, 3:] = False
    weights = attention.attention_weights(x, Grid(1, 5), attention_mask(part, x))
    assert weights[0, :, [0, 1, 3, 4], 2].abs().max() == 0
    assert torch.all(weights[0, :, 2] == 0.2)
    alone = attention.attention_weights(x[2:], Grid(1, 5))
    assert torch.allclose(weights[2:], alone, atol=1e-6)
    assert torch.isfinite(attention(x, Grid(1, 5), attention_mask(part, x))).all()


def test_relative_position_depends_on_the_difference_alone():
    relative = RelativePosition(Grid(2, 3), head_dim=4, num_prefix_tokens=1).double()
    q = torch.randn(1, 1, 1, 4, dtype=torch.float64).expand(2, 3, 7, 4)
    scores = relative(q, Grid(2, 3))[0, 0]
    assert scores[0].abs().max() == 0
    assert scores[:, 0].abs().max() == 0
    for offset in range(-5, 6):
        diagonal = scores[1:, 1:].diagonal(-offset)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-14)
        expected = q[0, 0, 0] @ relative.table[offset + 5]
        assert diagonal[0].item() == pytest.approx(expected.item(), abs=1e-12)


def test_relative_position_keeps_corner_offsets_on_another_grid():
    relative = RelativePosition(Grid(2, 3), head_dim=4, num_prefix_tokens=0).double()
    q = torch.randn(1, 1, 1, 4, dtype=torch.float64)
    old = relative(q.expand(1, 1, 6, 4), Grid(2, 3))[0, 0]
    new = relative(q.expand(1, 1, 20, 4), Grid(4, 5))[0, 0]
    corners_old, corners_new = [0, 2, 3, 5], [0, 4, 15, 19]
    picked = new[corners_new][:, corners_new]
    assert torch.allclose(picked, old[corners_old][:, corners_old], atol=1e-12)


def test_resize_to_the_same_grid_is_the_same_object():
    assert resize(SMALL, Grid(2, 2), Grid(2, 2)) is SMALL


@pytest.mark.parametrize(
    ("method", "size", "expected"),
    [
        ("official", 3, [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]),
        ("official", 4, [[(2 * r + c) / 3 for c in range(4)] for r in range(4)]),
        (
            "bicubic",
            3,
            [
                [-0.26042, 0.32639, 0.91319],
                [0.91319, 1.5, 2.08681],
                [2.08681, 2.67361, 3.26042],
            ],
        ),
        (
            "bicubic_antialias",
            3,
            [
                [-0.19737, 0.36842, 0.93421],
                [0.93421, 1.5, 2.06579],
                [2.06579, 2.63158, 3.19737],
            ],
        ),
    ],
)
def test_resize_goldens(method, size, expected):
    out = resize(SMALL, Grid(2, 2), Grid(size, size), method)
    expected = torch.tensor(expected, dtype=torch.float64).flatten()[:, None]
    assert torch.allclose(out, expected, atol=1e-5 if "cubic" in method else 1e-12)


def test_official_resize_is_scipy_zoom():
    zoom = pytest.importorskip("scipy.ndimage").zoom
    table = np.random.default_rng(0).normal(size=(3, 5, 4))
    expected = zoom(table, (7 / 3, 9 / 5, 1), order=1).reshape(63, 4)
    out = resize(torch.from_numpy(table).reshape(15, 4), Grid(3, 5), Grid(7, 9))
    assert np.abs(out.numpy() - expected).max() < 1e-12


def test_official_resize_keeps_a_ramp_and_the_corners():
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, 3, dtype=torch.float64),
        torch.linspace(0, 2, 5, dtype=torch.float64),
        indexing="ij",
    )
    ramp = torch.stack([rows, columns], -1).reshape(15, 2)
    out = resize(ramp, Grid(3, 5), Grid(8, 6)).reshape(8, 6, 2)
    steps = torch.linspace(0, 1, 8, dtype=torch.float64)
    assert torch.allclose(out[:, 2, 0], steps, atol=1e-12)
    assert torch.equal(out[-1, -1], torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_resize_refuses_a_table_of_another_grid():
    with pytest.raises(ConfigError, match="table of 4 rows does not fit a grid of 2 x"):
        resize(SMALL, Grid(2, 3), Grid(4, 4))


def test_sincos_goldens():
    table = sincos_2d(Grid(14, 14), 384, torch.zeros(1, dtype=torch.float64))
    assert table.shape == (196, 384)
    assert torch.allclose(table.square().sum(1), torch.tensor(192.0).double())
    assert table[0].sum().item() == pytest.approx(192)
    expected = torch.tensor([0.84147, 0.78803, 0.73369]).double()
    assert torch.allclose(table[1, :3], expected, atol=1e-5)
    wide = sincos_2d(Grid(2, 3), 8, torch.zeros(1, dtype=torch.float64))
    # token 4 is row 1, column 1; columns come first, and omega is 1 and 1e-4
    assert wide[4, 0].item() == pytest.approx(math.sin(1))
    assert wide[4, 4].item() == pytest.approx(math.sin(1))
    assert wide[2, 0].item() == pytest.approx(math.sin(2))
    assert wide[2, 4].item() == 0


def test_learned_2d_shares_columns_and_rows():
    x, y = torch.randn(1, 5, 6), torch.randn(1, 3, 6)
    table = learned_2d(x, y, Grid(3, 5)).reshape(3, 5, 12)
    assert torch.equal(table[..., :6], x[0].expand(3, 5, 6))
    assert torch.equal(table[..., 6:], y[0][:, None].expand(3, 5, 6))


def test_drop_path_rates():
    rates = drop_path_rates(0.1, 12)
    assert rates[0] == 0
    assert rates[11] == pytest.approx(0.1)
    assert rates[6] == pytest.approx(0.054545, abs=1e-6)
    assert drop_path_rates(0.3, 1) == [0.0]


def test_drop_path_keeps_the_mean_and_drops_whole_examples():
    torch.manual_seed(0)
    drop = DropPath(0.3)
    out = drop(torch.ones(20_000, 2, 3))
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])


def test_a_block_that_always_drops_is_the_identity():
    block = Block(24, Attention(24, 3), Mlp(24, 40, act="gelu"), drop_path=1.0)
    x = torch.randn(2, 7, 24)
    assert torch.equal(block.train()(x, Grid(1, 7)), x)
    assert not torch.equal(block.eval()(x, Grid(1, 7)), x)


def test_map_head_ignores_the_order_of_tokens():
    pool = AttentionPool(24, 3, 40, act="gelu_tanh").double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    assert torch.allclose(pool(x), pool(x[:, torch.randperm(7)]), atol=1e-12)
    part = torch.ones(2, 7, dtype=torch.bool)
    part[:, 5:] = False
    assert torch.allclose(pool(x, part), pool(x[:, :5]), atol=1e-12)
