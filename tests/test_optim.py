"""Groups, rates and updates, against formulas written out by hand."""

import math

import pytest
import torch
from torch import nn

from helpers import validate_with
from vitral.errors import ConfigError, WeightsError
from vitral.training import (
    OptimConfig,
    create_optimizer,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
    set_lr,
)
from vitral.training.optim import clip_gradients, gradient_norm, kernel_names


class Tiny(nn.Module):
    """One of each kind of parameter that must, or must not, decay."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, (4, 5))
        self.tube = nn.Conv3d(3, 6, (2, 4, 5))
        self.position = nn.Parameter(torch.ones(1, 11, 6))
        self.token = nn.Parameter(torch.ones(1, 1, 6))
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(6))
        self.attention = nn.MultiheadAttention(6, 2)
        self.table = nn.Embedding(13, 6)
        self.norm = nn.LayerNorm((2, 6))
        self.head = nn.Linear(6, 7)


def layer_of(name: str) -> int:
    if name.startswith("head"):
        return 3
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0


def names_of(model, group):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_only_matrices_of_layers_decay():
    assert kernel_names(Tiny()) >= {
        "patch.weight",
        "tube.weight",
        "blocks.0.weight",
        "blocks.1.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    }
    model = Tiny()
    groups = parameter_groups(model, OptimConfig(weight_decay=0.3), layer_of, 3)
    decayed = set().union(*(names_of(model, g) for g in groups if g["weight_decay"]))
    assert decayed == {
        "patch.weight",
        "tube.weight",
        "blocks.0.weight",
        "blocks.1.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    }
    every = [p for group in groups for p in group["params"]]
    assert len(every) == len(list(model.parameters()))


def test_layer_wise_rates():
    model = Tiny()
    config = OptimConfig(layer_decay=0.5, head_lr_scale=10.0, weight_decay=0.3)
    groups = parameter_groups(model, config, layer_of, 3)
    scales = {n: g["lr_scale"] for g in groups for n in names_of(model, g)}
    assert scales["patch.weight"] == scales["token"] == scales["norm.weight"] == 0.125
    assert scales["blocks.0.weight"] == scales["blocks.0.bias"] == 0.25
    assert scales["blocks.1.weight"] == 0.5
    assert scales["head.weight"] == scales["head.bias"] == 10
    optimizer = create_optimizer(groups, config)
    set_lr(optimizer, 0.04)
    rates = {n: g["lr"] for g in optimizer.param_groups for n in names_of(model, g)}
    assert rates["patch.bias"] == 0.005
    assert rates["head.bias"] == 0.4


def test_frozen_parameters_are_left_out():
    model = Tiny()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    groups = parameter_groups(model, OptimConfig(), layer_of, 3)
    assert set().union(*(names_of(model, g) for g in groups)) == {
        "head.weight",
        "head.bias",
    }


def test_a_subclass_of_a_layer_decays():
    class Standardised(nn.Conv2d):
        pass

    assert kernel_names(nn.Sequential(Standardised(2, 3, 1))) == {"0.weight"}


def test_decay_alone_moves_only_kernels():
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    config = OptimConfig(lr=1e-3, weight_decay=0.1)
    optimizer = create_optimizer(
        parameter_groups(model, config, lambda name: 0, 0), config
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model.weight.item() == pytest.approx(0.9999, abs=1e-7)
    assert model.bias.item() == 1


def single(value, config, dtype=torch.float64):
    parameter = nn.Parameter(torch.tensor([value], dtype=dtype))
    group = {"params": [parameter], "lr_scale": 1.0, "weight_decay": 0.0}
    return parameter, create_optimizer([group], config)


def test_sgd_momentum():
    parameter, optimizer = single(1.0, OptimConfig(optimizer="sgd", lr=0.1))
    seen = []
    for _ in range(3):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        seen.append(parameter.item())
    assert seen == pytest.approx([0.9, 0.71, 0.439], rel=1e-12)


@pytest.mark.parametrize("gradient", [-300.0, 0.02])
def test_first_adam_step_is_the_rate(gradient):
    parameter, optimizer = single(1.0, OptimConfig(lr=0.01))
    parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    moved = parameter.item() - 1
    assert moved == pytest.approx(-math.copysign(0.01, gradient), rel=1e-6)


def test_adamw_against_the_formula():
    config = OptimConfig(lr=0.01, weight_decay=0.2, betas=(0.8, 0.95))
    parameter = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    group = {"params": [parameter], "lr_scale": 1.0, "weight_decay": 0.2}
    optimizer = create_optimizer([group], config)
    weight, mean, square = 0.7, 0.0, 0.0
    for count, gradient in enumerate([0.3, -1.1, 0.05, 2.0], start=1):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        direction = (mean / (1 - 0.8**count)) / (
            math.sqrt(square / (1 - 0.95**count)) + 1e-8
        )
        weight -= 0.01 * (direction + 0.2 * weight)
    assert parameter.item() == pytest.approx(weight, rel=1e-12)


def adafactor_by_hand(weight, gradients, lr, decay):
    """One matrix: arXiv 1804.04235, algorithm 4, with steps of fixed size."""
    rows = torch.zeros(weight.shape[0], 1, dtype=weight.dtype)
    columns = torch.zeros(1, weight.shape[1], dtype=weight.dtype)
    for count, gradient in enumerate(gradients, start=1):
        memory = 1 - count**-0.8
        square = gradient.square()
        rows = memory * rows + (1 - memory) * square.mean(1, keepdim=True)
        columns = memory * columns + (1 - memory) * square.mean(0, keepdim=True)
        update = gradient / (rows * columns / rows.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        weight = weight * (1 - lr * decay) - lr * update
    return weight


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_adafactor_against_the_formula(size):
    """Also for gradients whose square is far below torch's own epsilon of 1e-7."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(5, 3, 7, generator=generator, dtype=torch.float64)
    start, *gradients = 0.1 * drawn[0], *(size * drawn[1:])
    parameter = nn.Parameter(start.clone())
    config = OptimConfig(optimizer="adafactor", lr=0.01, weight_decay=0.3)
    group = {"params": [parameter], "lr_scale": 1.0, "weight_decay": 0.3}
    optimizer = create_optimizer([group], config)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = adafactor_by_hand(start, gradients, 0.01, 0.3)
    assert torch.allclose(parameter, expected, rtol=1e-9, atol=0)
    assert float((parameter.detach() - start).abs().max()) < 0.1


def test_adafactor_keeps_a_number_for_each_row_and_column():
    model = nn.Linear(8192, 1664, bias=False, device="meta")
    config = OptimConfig(optimizer="adafactor")
    optimizer = create_optimizer(
        parameter_groups(model, config, lambda name: 0, 0), config
    )
    model.weight.grad = torch.empty_like(model.weight)
    group = optimizer.param_groups[0]
    optimizer._init_group(group, [], [], [], [], [], [])
    state = optimizer.state[model.weight]
    assert sum(t.numel() for name, t in state.items() if name != "step") == 9_856


def test_the_kernels_of_the_head_decay_on_their_own():
    """arXiv 2106.04560: 3.0 on the head and 0.03 elsewhere, at a rate of 8e-4."""
    torch.manual_seed(0)
    model = Tiny().double()
    config = OptimConfig(
        optimizer="adafactor", lr=8e-4, weight_decay=0.03, head_decay=3.0
    )
    optimizer = create_optimizer(parameter_groups(model, config, layer_of, 3), config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kernels = kernel_names(model)
    for name, parameter in model.named_parameters():
        share = 2.4e-3 if name == "head.weight" else 2.4e-5 * (name in kernels)
        assert torch.allclose(parameter, before[name] * (1 - share), rtol=1e-14), name


def test_a_head_is_what_is_said_to_be_one():
    model = Tiny()
    config = OptimConfig(weight_decay=0.03, head_decay=0.0)
    groups = parameter_groups(model, config, layer_of, 3, lambda name: name[0] == "p")
    decays = {n: g["weight_decay"] for g in groups for n in names_of(model, g)}
    assert decays["head.weight"] == decays["tube.weight"] == 0.03
    assert decays["patch.weight"] == decays["position"] == 0


def test_clipping_is_global():
    first = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    second = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    unused = nn.Parameter(torch.zeros(3))
    parameters = [first, second, unused]
    first.grad = torch.tensor([6.0, 0.0], dtype=torch.float64)
    second.grad = torch.tensor([8.0], dtype=torch.float64)
    norm = float(gradient_norm(parameters))
    assert norm == 10
    clip_gradients(parameters, 1.0, norm)
    assert first.grad.tolist() == pytest.approx([0.6, 0.0], rel=1e-15)
    assert second.grad.tolist() == pytest.approx([0.8], rel=1e-15)


@pytest.mark.parametrize(("norm", "limit"), [(0.5, 1.0), (10.0, 0.0)])
def test_no_clipping_below_the_limit_or_without_one(norm, limit):
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([norm])
    clip_gradients([parameter], limit, norm)
    assert parameter.grad.item() == norm


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor"])
def test_optimizer_state_by_name_is_bit_equal(kind):
    def trained(steps, restored=None):
        torch.manual_seed(0)
        model = Tiny()
        config = OptimConfig(optimizer=kind, lr=0.01, weight_decay=0.1)
        optimizer = create_optimizer(
            parameter_groups(model, config, layer_of, 3), config
        )
        names = dict(model.named_parameters())
        if restored is not None:
            model.load_state_dict(restored[0])
            restore_optimizer(optimizer, names, restored[1])
        for step in steps:
            for index, parameter in enumerate(names.values()):
                generator = torch.Generator().manual_seed(100 * step + index)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        tensors = optimizer_tensors(optimizer, names)
        return {k: v.clone() for k, v in model.state_dict().items()}, tensors

    whole = trained(range(5))
    half = trained(range(3))
    resumed = trained(range(3, 5), half)
    for expected, got in zip(whole, resumed, strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    key = {"adamw": "exp_avg", "sgd": "momentum_buffer", "adafactor": "col_var"}[kind]
    assert f"blocks.0.weight/{key}" in whole[1]


def test_restored_state_is_aligned():
    """A tensor of a file may lie anywhere; see the same test of a model's weights."""
    model = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    state = torch.arange(7.0)[1:].view(3, 2)
    names = dict(model.named_parameters())
    restore_optimizer(optimizer, names, {"weight/exp_avg": state})
    restored = optimizer.state[model.weight]["exp_avg"]
    assert torch.equal(restored, state)
    assert restored.data_ptr() % 64 == 0


def test_restore_refuses_a_stranger():
    model = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    names = dict(model.named_parameters())
    with pytest.raises(WeightsError, match="optimizer state for other, which is not"):
        restore_optimizer(optimizer, names, {"other/exp_avg": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"weight/row_var has shape \(3, 2\)"):
        restore_optimizer(optimizer, names, {"weight/row_var": torch.zeros(3, 2)})
    with pytest.raises(WeightsError, match=r"weight/exp_avg has shape \(4,\)"):
        restore_optimizer(optimizer, names, {"weight/exp_avg": torch.zeros(4)})


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match="'sgd' or 'adafactor': got 'lion'"):
        validate_with(OptimConfig(), "optimizer", "lion")
    with pytest.raises(ConfigError, match=r"`lr` must be positive: got 0\.0"):
        OptimConfig(lr=0.0)
    with pytest.raises(ConfigError, match="`weight_decay` must not be negative"):
        OptimConfig(weight_decay=-0.1)
    with pytest.raises(ConfigError, match=r"or -1 for `weight_decay`: got -0\.5"):
        OptimConfig(head_decay=-0.5)
    with pytest.raises(ConfigError, match="`betas` must be at least 0 and below 1"):
        OptimConfig(betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match="`layer_decay` must be above 0"):
        OptimConfig(layer_decay=0.0)
    model = Tiny()
    with pytest.raises(ConfigError, match="is in layer 9: layers are 0 to 3"):
        parameter_groups(model, OptimConfig(), lambda name: 9, 3)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="Every parameter is frozen"):
        parameter_groups(model, OptimConfig(), layer_of, 3)
