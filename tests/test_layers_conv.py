"""Weight standardisation, the two paddings, and the two bottleneck units."""

import pytest
import timm.layers
import torch
import torch.nn.functional as F

from helpers import randomise
from vitral.layers.bottleneck import PostActivationUnit, PreActivationUnit, Stem
from vitral.layers.conv import (
    ConvNumerics,
    MaxPool,
    StdConv2d,
    compute_padding,
    standardize,
)

BIT = ConvNumerics(
    std_eps=1e-10,
    std_eps_at="variance",
    group_norm_eps=1e-5,
    num_groups=4,
    padding="fixed",
)
FLAX = ConvNumerics(
    std_eps=1e-5,
    std_eps_at="deviation",
    group_norm_eps=1e-6,
    num_groups=4,
    padding="same",
)


def noise(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("eps", "eps_at", "expected"),
    [
        (1e-10, "variance", [-1.3416408, -0.4472136, 0.4472136, 1.3416408]),
        (1e-5, "deviation", [-1.34162879, -0.4472096, 0.4472096, 1.34162879]),
        # Deviation sqrt(1.25), by hand: 1.5 / sqrt(1.25 + 1), 1.5 / (sqrt(1.25) + 1).
        (1.0, "variance", [-1.0, -1 / 3, 1 / 3, 1.0]),
        (1.0, "deviation", [-0.70820393, -0.23606798, 0.23606798, 0.70820393]),
    ],
)
def test_standardised_by_hand(eps, eps_at, expected):
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 1, 2, 2)
    out = standardize(weight, eps, eps_at).flatten()
    assert torch.allclose(out, torch.tensor(expected, dtype=torch.float64), atol=2e-8)


@pytest.mark.parametrize("numerics", [BIT, FLAX])
def test_standardised_weights_forget_offset_and_scale(numerics):
    weight = noise(5, 3, 7, 7) * 0.1 + 3
    args = (numerics.std_eps, numerics.std_eps_at)
    out = standardize(weight, *args)
    assert out.mean(dim=(1, 2, 3)).abs().max() < 1e-6
    assert (out.std(dim=(1, 2, 3), correction=0) - 1).abs().max() < 2e-4
    assert (standardize(10 * weight, *args) - out).abs().max() < 1e-3 * out.abs().max()
    # One filter must not see its neighbours.
    changed = weight.clone()
    changed[0] = noise(3, 7, 7, seed=9)
    assert torch.equal(standardize(changed, *args)[1:], out[1:])
    assert not torch.allclose(standardize(changed, *args)[0], out[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("numerics", [BIT, FLAX])
def test_reduced_precision_is_rounded_once(numerics, dtype):
    weight = (noise(5, 3, 7, 7) * 0.01 + 0.5).to(dtype)
    args = (numerics.std_eps, numerics.std_eps_at)
    out = standardize(weight, *args)
    assert out.dtype == dtype
    assert torch.equal(out, standardize(weight.float(), *args).to(dtype))
    exact = standardize(weight.double(), *args)
    step = 2.0**-10 if dtype == torch.float16 else 2.0**-7
    # The mean, 50 deviations, is known to 6e-8 of itself in float32.
    assert ((out.double() - exact).abs() <= step * exact.abs() + 2e-5).all()


@pytest.mark.parametrize("numerics", [BIT, FLAX])
def test_a_constant_filter_has_a_finite_gradient(numerics):
    weight = torch.full((2, 3, 1, 1), 0.5, requires_grad=True)
    out = standardize(weight, numerics.std_eps, numerics.std_eps_at)
    out.square().sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("numerics", [BIT, FLAX])
def test_gradient_of_standardisation(numerics):
    weight = noise(3, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: standardize(w, numerics.std_eps, numerics.std_eps_at), (weight,)
    )


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "expected"),
    [
        (224, 7, 2, "same", (2, 3)),
        (112, 3, 2, "same", (0, 1)),
        (225, 7, 2, "same", (3, 3)),
        (57, 3, 2, "same", (1, 1)),
        (57, 3, 1, "same", (1, 1)),
        (56, 1, 2, "same", (0, 0)),
        (224, 7, 2, "fixed", (3, 3)),
        (112, 3, 2, "fixed", (1, 1)),
        (56, 1, 2, "fixed", (0, 0)),
    ],
)
def test_pads(side, kernel, stride, padding, expected):
    assert compute_padding(side, kernel, stride, padding) == expected


@pytest.mark.parametrize("padding", ["fixed", "same"])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2)])
@pytest.mark.parametrize("size", [(18, 32), (17, 30), (1, 2)])
def test_convolution_equals_explicit_padding_and_timm(padding, kernel, stride, size):
    numerics = ConvNumerics(
        std_eps=1e-8,
        std_eps_at="variance",
        group_norm_eps=1e-5,
        num_groups=4,
        padding=padding,
    )
    ours = StdConv2d(3, 5, kernel, stride=stride, numerics=numerics).double()
    kind = timm.layers.StdConv2d if padding == "fixed" else timm.layers.StdConv2dSame
    theirs = kind(3, 5, kernel, stride=stride, eps=1e-8).double()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 3, *size)
    expected = theirs(x)
    assert ours(x).shape[2:] == tuple(-(-side // stride) for side in size)
    assert (ours(x) - expected).abs().max() < 1e-10
    rows, columns = (compute_padding(side, kernel, stride, padding) for side in size)
    plain = F.conv2d(
        F.pad(x, (*columns, *rows)),
        standardize(ours.weight, 1e-8, "variance"),
        stride=stride,
    )
    assert torch.allclose(ours(x), plain, atol=1e-12)


def test_same_padding_of_the_released_sizes():
    x = noise(1, 3, 224, 112)
    conv = StdConv2d(3, 4, 7, stride=2, numerics=FLAX).double()
    weight = standardize(conv.weight, 1e-5, "deviation")
    by_hand = F.conv2d(F.pad(x, (2, 3, 2, 3)), weight, stride=2)
    assert torch.allclose(conv(x), by_hand, atol=1e-12)
    wrong = F.conv2d(F.pad(x, (3, 2, 3, 2)), weight, stride=2)
    assert (conv(x) - wrong).abs().max() > 1e-3


def test_the_border_of_the_pool():
    x = -1 - noise(1, 2, 12, 8).abs()
    bit = MaxPool("fixed")(x)
    assert bit.shape == (1, 2, 6, 4)
    # 0 wins in the first row and column; an even side needs no cells at its end.
    assert (bit[:, :, 0] == 0).all()
    assert (bit[:, :, :, 0] == 0).all()
    assert (bit[:, :, 1:, 1:] < 0).all()
    same = MaxPool("same")(x)
    assert torch.equal(same[0, 0, 0, 0], x[0, 0, :3, :3].max())
    assert torch.equal(same[0, 1, 5, 3], x[0, 1, 10:, 6:].max())
    assert (same < 0).all()


def test_a_fresh_post_activation_unit_hands_on_its_shortcut():
    torch.manual_seed(0)
    x = noise(2, 32, 6, 9)
    plain = PostActivationUnit(32, 8, stride=1, project=False, norms=FLAX).double()
    assert torch.equal(plain(x), F.relu(x))
    unit = PostActivationUnit(32, 16, stride=2, project=True, norms=FLAX).double()
    norms = {name: p for name, p in unit.named_parameters() if "norm" in name}
    zero = {name for name, p in norms.items() if p.abs().max() == 0}
    assert "norm3.weight" in zero
    assert torch.equal(unit.downsample.norm.weight, torch.ones(64).double())
    norm, conv = unit.downsample.norm, unit.downsample.conv
    assert torch.equal(unit(x), F.relu(norm(conv(x))))


def test_the_projection_of_a_pre_activation_unit_sees_the_activated_input():
    unit = PreActivationUnit(32, 16, stride=2, project=True, norms=BIT).double()
    randomise(unit)
    x = noise(2, 32, 6, 9)
    with torch.no_grad():
        unit.norm3.weight.zero_()
        unit.norm3.bias.zero_()
    active = F.relu(F.group_norm(x, 4, unit.norm1.weight, unit.norm1.bias, 1e-5))
    assert torch.allclose(unit(x), unit.downsample.conv(active), atol=1e-12)
    assert (unit(x) - unit.downsample.conv(x)).abs().max() > 1e-3


def test_only_the_stem_of_post_activation_has_a_norm():
    pre = Stem(3, 8, norm=False, numerics=BIT)
    post = Stem(3, 8, norm=True, numerics=FLAX)
    assert list(pre.state_dict()) == ["conv.weight"]
    assert list(post.state_dict()) == ["conv.weight", "norm.weight", "norm.bias"]
    assert pre(noise(1, 3, 18, 29, dtype=torch.float32)).shape == (1, 8, 5, 8)
