"""Rank collapse: norms by hand, the cubic law, paths that sum to the network."""

import copy
import math

import pytest
import torch

from helpers import images, randomise, tiny_vit
from vitral.errors import ConfigError
from vitral.inspection.rank import (
    composite_norm,
    decompose_paths,
    layer_tokens,
    path_count,
    path_lengths,
    relative_residual,
    residual_profile,
    similarity_profile,
    token_similarity,
)
from vitral.layers import Attention, Grid, Mlp
from vitral.models import DeiT, DeiTConfig, ViT, ViTConfig, create
from vitral.models.hybrid import Hybrid, HybridConfig

GRID = Grid(3, 5)
TINY = {
    "image_size": (48, 80),
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "mlp_dim": 40,
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def attention(dim: int = 24, heads: int = 3, seed: int = 0, **settings) -> Attention:
    torch.manual_seed(seed)
    layer = Attention(dim, heads, **settings).double()
    for bias in (layer.qkv.bias, layer.proj.bias):
        if bias is not None:
            torch.nn.init.normal_(bias, std=0.3)
    return layer.eval().requires_grad_(False)


def test_the_composite_norm_by_hand():
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64)
    # Column sums 4 and 6, row sums 3 and 7.
    assert composite_norm(x).item() == pytest.approx(math.sqrt(6 * 7))
    # Mean row (2, 1); what is left is (-1, -3), (1, 3): column sum 6, row sum 4.
    assert relative_residual(x).item() == pytest.approx(math.sqrt(24 / 42))


def test_norms_of_a_batch_are_those_of_its_members():
    x = noise(2, 5, 7)
    for measure in (composite_norm, relative_residual, token_similarity):
        apart = torch.stack([measure(one) for one in x])
        torch.testing.assert_close(measure(x), apart, rtol=1e-12, atol=0)


def test_equal_tokens_have_no_residual_and_full_similarity():
    x = noise(2, 1, 7).expand(2, 5, 7)
    assert relative_residual(x).max() < 1e-15
    torch.testing.assert_close(token_similarity(x), torch.ones(2, dtype=x.dtype))
    assert relative_residual(torch.zeros(2, 5, 7)).tolist() == [0, 0]
    assert token_similarity(noise(2, 1, 7)).tolist() == [1, 1]
    assert token_similarity(torch.zeros(2, 5, 7)).tolist() == [0, 0]


def test_the_similarity_does_not_depend_on_the_tokens_size():
    x = noise(2, 5, 7)
    tiny = token_similarity(x * 1e-200)
    torch.testing.assert_close(tiny, token_similarity(x), rtol=1e-12, atol=0)


def test_token_similarity_by_hand():
    x = torch.tensor([[3.0, 0.0], [0.0, 2.0], [5.0, 5.0]], dtype=torch.float64)
    # Cosines: 0 between the first two, sqrt(1/2) twice.
    assert token_similarity(x).item() == pytest.approx(2 * math.sqrt(0.5) / 3)


def slope(layer) -> float:
    """Of log ||res|| of the output against log epsilon, for X = 1 x + epsilon R."""
    row, residual = noise(1, 1, 24, seed=1), noise(1, 15, 24, seed=2)
    epsilons = (1e-3, 1e-4)
    left = []
    for epsilon in epsilons:
        out = layer(row + epsilon * residual)
        left.append(composite_norm(out - out.mean(dim=1, keepdim=True)).log().item())
    return (left[0] - left[1]) / math.log(epsilons[0] / epsilons[1])


def test_attention_shrinks_a_small_residual_to_its_third_power():
    attend = attention()
    norm = torch.nn.LayerNorm(24, eps=0.0).double()
    torch.manual_seed(3)
    mlp = Mlp(24, 40, act="gelu").double()
    assert slope(lambda x: attend(x, GRID)) == pytest.approx(3.0, abs=0.01)
    assert slope(lambda x: attend(norm(x), GRID)) == pytest.approx(3.0, abs=0.01)
    assert slope(lambda x: mlp(attend(x, GRID))) == pytest.approx(3.0, abs=0.01)
    assert slope(lambda x: x + attend(x, GRID)) == pytest.approx(1.0, abs=0.01)


def test_attention_alone_collapses_within_four_layers_and_a_skip_prevents_it():
    for skip in (False, True):
        x, profile = noise(2, 16, 32, seed=4), []
        for layer in range(12):
            attend = attention(32, 2, layer, qkv_bias=False, proj_bias=False)
            out = attend(x, Grid(2, 8))
            x = x + out if skip else out
            profile.append(relative_residual(x).max().item())
        if skip:
            assert min(profile) > 0.1
        else:
            assert profile[0] > 0.1
            assert profile[3] < 1e-10


def test_path_counts():
    counts = path_lengths(depth=12, num_heads=12)
    assert counts[:5] == [1, 144, 9504, 380_160, 10_264_320]
    assert len(counts) == 13
    assert sum(counts) == path_count(12, 12) == 23_298_085_122_481
    assert path_lengths(2, 3) == [1, 6, 9]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_all_paths_sum_to_the_network(bias, skip):
    layers = [
        attention(24, heads, seed, head_dim=5, qkv_bias=bias, proj_bias=bias)
        for seed, heads in enumerate((3, 2, 4))
    ]
    x = noise(2, 15, 24, seed=5)
    found = decompose_paths(layers, x, GRID, skip=skip)
    out = x
    for layer in layers:
        out = layer(out, GRID) + (out if skip else 0)
    error = (found.terms.sum(0) + found.constant - out).abs().max()
    assert error <= 1e-12 * out.abs().max()
    assert (
        len(set(found.steps))
        == len(found.terms)
        == math.prod(heads + skip for heads in (3, 2, 4))
    )
    assert (found.constant.abs().max() > 0.1) == bias


def test_a_path_is_the_one_that_its_steps_name():
    layers = [attention(24, 3, seed, proj_bias=False) for seed in (0, 1)]
    x = noise(2, 15, 24, seed=5)
    found = decompose_paths(layers, x, GRID, skip=True)
    torch.testing.assert_close(found.terms[found.steps.index((None, None))], x)
    # Only head 1 of the first layer, by hand: the others' values are set to zero.
    alone = copy.deepcopy(layers[0])
    alone.qkv.bias[48:] = 0
    for head in (0, 2):
        alone.qkv.weight[48 + 8 * head : 56 + 8 * head] = 0
    torch.testing.assert_close(
        found.terms[found.steps.index((1, None))], alone(x, GRID), rtol=0, atol=1e-12
    )


def test_the_number_of_paths_by_length_is_the_binomial_one():
    layers = [attention(24, 3, seed) for seed in range(4)]
    steps = decompose_paths(layers, noise(1, 15, 24), GRID, skip=True).steps
    lengths = [sum(head is not None for head in path) for path in steps]
    assert [lengths.count(k) for k in range(5)] == path_lengths(4, 3)


def test_too_many_paths_are_refused():
    layers = [attention()] * 8
    with pytest.raises(ConfigError, match=r"8 layers make 6561 paths; .* at most 4096"):
        decompose_paths(layers, noise(1, 15, 24), GRID)


def by_hand(model, tokens: torch.Tensor, ablate: set[str]) -> list[torch.Tensor]:
    """The equations once more, without any of the room's code."""
    found, grid = [tokens], GRID
    for layer, block in enumerate(model.blocks):
        x = found[-1]
        if model.config.position_at == "every_layer":
            x = x + model.pos_embed[layer]
        if model.config.position_at == "every_layer_shared":
            x = x + model.pos_embed[0]
        normed = x if "norm" in ablate else block.norm1(x)
        attended = block.ls1(block.attn(normed, grid))
        x = attended + (0 if "attn_skip" in ablate else x)
        if "mlp" not in ablate:
            normed = x if "norm" in ablate else block.norm2(x)
            x = block.ls2(block.mlp(normed)) + (0 if "mlp_skip" in ablate else x)
        found.append(x)
    return found


ABLATIONS = [
    set(),
    {"attn_skip"},
    {"mlp_skip"},
    {"mlp"},
    {"norm"},
    {"attn_skip", "mlp"},
    {"attn_skip", "mlp", "norm"},
    {"attn_skip", "mlp_skip"},
]


@pytest.mark.parametrize("ablate", ABLATIONS, ids=lambda names: "+".join(sorted(names)))
def test_each_ablation_is_the_equation_without_that_part(ablate):
    model = tiny_vit(init_values=0.1, reg_tokens=2)
    with torch.no_grad():
        expected = by_hand(model, model.embed(images()).x, ablate)
    found = list(layer_tokens(model, images(), ablate))
    assert len(found) == 3
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    profile = torch.stack([relative_residual(x).mean() for x in expected])
    torch.testing.assert_close(residual_profile(model, images(), ablate), profile)
    alike = torch.stack([token_similarity(x).mean() for x in expected])
    torch.testing.assert_close(similarity_profile(model, images(), ablate), alike)


def test_ablations_differ_from_each_other():
    model = tiny_vit(init_values=0.1)
    profiles = [residual_profile(model, images(), ablate) for ablate in ABLATIONS]
    assert all(
        (first - second).abs().max() > 1e-6
        for at, first in enumerate(profiles)
        for second in profiles[:at]
    )


@pytest.mark.parametrize("place", ["every_layer", "every_layer_shared"])
def test_positions_before_every_block_are_kept(place):
    model = tiny_vit(position_at=place)
    with torch.no_grad():
        expected = by_hand(model, model.embed(images()).x, {"attn_skip"})
    found = list(layer_tokens(model, images(), {"attn_skip"}))
    torch.testing.assert_close(found[-1], expected[-1], rtol=1e-12, atol=1e-12)


def other_families():
    yield DeiT(DeiTConfig(**TINY))
    yield Hybrid(HybridConfig(**TINY, units=(1, 1), stem_width=8, num_groups=4))


@pytest.mark.parametrize("model", [*other_families()], ids=lambda m: type(m).__name__)
def test_other_families_of_blocks(model):
    model = model.double().eval()
    randomise(model)
    with torch.no_grad():
        tokens = model.embed(images())
        expected = model.forward_blocks(tokens).x
    found = list(layer_tokens(model, images()))
    assert len(found) == 4
    torch.testing.assert_close(found[0], tokens.x, rtol=0, atol=0)
    torch.testing.assert_close(found[-1], expected, rtol=1e-12, atol=1e-12)
    alone = residual_profile(model, images(), {"attn_skip", "mlp"})
    assert (alone[1:] != residual_profile(model, images())[1:]).all()


def test_the_model_stays_as_it_was():
    model = tiny_vit(drop_rate=0.5, drop_path_rate=0.5).float().train()
    model.blocks[0].mlp.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    kinds = [type(module) for module in model.modules()]
    first = residual_profile(model, images().float(), {"attn_skip", "norm"})
    second = residual_profile(model, images().float(), {"attn_skip", "norm"})
    assert first.dtype == torch.float64
    assert not first.requires_grad
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == modes
    assert [type(module) for module in model.modules()] == kinds
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def test_the_precision_is_the_callers():
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**TINY, "depth": 9})).double()
    ablate = {"attn_skip", "mlp"}
    fine = residual_profile(model, images(), ablate)
    coarse = residual_profile(model, images(), ablate, dtype=torch.float32)
    assert coarse.dtype == torch.float32
    assert fine[-1] < 1e-12
    assert 1e-9 < coarse[-1] < 1e-5


def test_an_unknown_ablation_is_refused():
    message = "`ablate` must be taken from attn_skip, mlp_skip, mlp, norm: got head, x"
    with pytest.raises(ConfigError, match=message):
        residual_profile(tiny_vit(), images(), {"x", "mlp", "head"})


def test_a_model_without_attention_is_refused():
    with torch.device("meta"):
        model = create("bit_r50x1", image_size=(48, 80), num_classes=7)
    with pytest.raises(ConfigError, match=r"no Transformer blocks, .* such as a ViT"):
        residual_profile(model, images())


def circular(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), kernel
    )


def shift(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
    return x.roll((down, right), (-2, -1))


def test_a_circular_convolution_commutes_with_shifts():
    x, kernel = images(), noise(7, 3, 3, 3)
    for down, right in ((1, 0), (5, 11), (16, 32)):
        error = circular(shift(x, down, right), kernel) - shift(
            circular(x, kernel), down, right
        )
        assert error.abs().max() <= 1e-12


@torch.no_grad()
def test_a_vit_commutes_with_shifts_of_whole_patches_unless_it_knows_positions():
    x = images()
    for position, commutes in (("none", True), ("learned_1d", False)):
        model = tiny_vit(position=position)
        plain = model.forward_features(x).patches.permute(0, 3, 1, 2)
        moved = model.forward_features(shift(x, 16, 32)).patches.permute(0, 3, 1, 2)
        error = (moved - shift(plain, 1, 2)).abs().max()
        assert (error <= 1e-12) if commutes else (error > 0.1)
    partly = model.forward_features(shift(x, 3, 5)).patches.permute(0, 3, 1, 2)
    assert (partly - plain).abs().max() > 0.1
