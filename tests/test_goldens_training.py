"""The golden checks of training, T1 to T15, each by its own short test.

What is known of each part in detail is tested beside it: schedules in test_schedule.py,
optimizers and clipping in test_optim.py, parts of a batch and averages in
test_training_step.py, pixels in test_data_preprocess.py, crops and mixing in
test_data_augment.py, losses in test_objectives.py.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import vitral.weights
from helpers import TINY, randomise
from vitral.data import AugmentConfig, Batch, ClassTarget, MixConfig, Preprocess
from vitral.data.augmentation.draw import inception_crop
from vitral.data.augmentation.mixup import mix
from vitral.data.images import Size
from vitral.data.targets import blend_with_previous
from vitral.models import ViT, ViTConfig, replace_config
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.tasks.classification.supervised import sigmoid_loss
from vitral.training import (
    OptimConfig,
    ScheduleConfig,
    create_optimizer,
    lr_at,
    parameter_groups,
)
from vitral.training.ema import create_ema
from vitral.training.optim import clip_gradients, gradient_norm
from vitral.training.step import TrainStep
from vitral.workflows.cost.plan import estimate_workload


def parameter(value, gradient):
    made = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    made.grad = torch.tensor([gradient], dtype=torch.float64)
    return made


def optimizer_over(made, **settings):
    group = {"params": [made], "lr_scale": 1.0, "weight_decay": 0.0}
    return create_optimizer([group], OptimConfig(**settings))


def vit(seed=0, **changes):
    model = ViT(ViTConfig(**{**TINY, **changes})).double()
    randomise(model, seed)
    return model


def batch_of(images=19, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    label = torch.randint(7, (images,), generator=generator)
    return Batch(
        image=torch.randn(images, 3, 48, 80, generator=generator, dtype=dtype),
        target=ClassTarget(functional.one_hot(label, 7).to(dtype), label),
        id=tuple(f"{number}.png" for number in range(images)),
    )


def test_t1_schedules():
    cosine = ScheduleConfig(schedule="cosine", warmup=500)
    golden = {0: 0, 1: 6e-5, 250: 0.015, 500: 0.03, 5_250: 0.015, 10_000: 0}
    for step, rate in golden.items():
        assert lr_at(step, 10_000, 0.03, cosine) == pytest.approx(rate, abs=1e-17)
    linear = ScheduleConfig(schedule="linear", warmup=10_000, end_lr=1e-5)
    for step, rate in {0: 0, 5_000: 4e-4, 505_000: 4.05e-4, 10**6: 1e-5}.items():
        assert lr_at(step, 10**6, 8e-4, linear) == pytest.approx(rate, rel=1e-12)
    rsqrt = ScheduleConfig(schedule="rsqrt", warmup=10_000, timescale=10_000)
    assert lr_at(40_000, 10**6, 8e-4, rsqrt) == pytest.approx(4e-4)


def test_t2_decay_is_decoupled_and_of_kernels():
    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    config = OptimConfig(lr=1e-3, weight_decay=0.1)
    optimizer = create_optimizer(
        parameter_groups(model, config, lambda name: 0, 0), config
    )
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    assert model.weight.item() == pytest.approx(0.9999, rel=1e-14)
    assert model.bias.item() == 1


def test_t3_clipping_is_global():
    both = [parameter(0.0, 6.0), parameter(0.0, 8.0)]
    clip_gradients(both, 1.0, float(gradient_norm(both)))
    assert float(gradient_norm(both)) == pytest.approx(1, rel=1e-14)
    small = [parameter(0.0, 0.5)]
    clip_gradients(small, 1.0, float(gradient_norm(small)))
    assert small[0].grad.item() == 0.5


def test_t4_momentum_is_neither_nesterov_nor_damped():
    weight = parameter(1.0, 1.0)
    optimizer = optimizer_over(weight, optimizer="sgd", lr=0.1, momentum=0.9)
    seen = []
    for _ in range(3):
        optimizer.step()
        seen.append(weight.item())
    assert seen == pytest.approx([0.9, 0.71, 0.439], rel=1e-12)


@pytest.mark.parametrize("gradient", [-70.0, 0.003])
def test_t5_adams_first_step_is_the_rate(gradient):
    weight = parameter(2.0, gradient)
    optimizer_over(weight, lr=0.01).step()
    assert weight.item() - 2 == pytest.approx(-math.copysign(0.01, gradient), rel=1e-5)


def test_t6_parts_of_a_batch_give_the_gradient_of_all():
    found = []
    for parts in (1, 8):
        objective = Supervised(vit(), SupervisedConfig(smoothing=0.1))
        parameters = dict(objective.named_parameters())
        TrainStep(
            forward=objective,
            parameters=parameters,
            optimizer=torch.optim.SGD(objective.parameters(), 0.1),
            device=torch.device("cpu"),
            seed=0,
            accumulate=parts,
            bf16=False,
            clip_norm=0.0,
        ).update(batch_of(), 0)
        found.append(torch.cat([p.grad.flatten() for p in parameters.values()]))
    assert float(found[0].abs().max()) > 1e-3
    assert float((found[0] - found[1]).abs().max()) <= 1e-10


def test_t7_pixels():
    preprocess = Preprocess(image_size=(2, 3))
    values = torch.tensor([0.0, 127.5, 255.0]).reshape(1, 1, 3).expand(3, 2, 3)
    assert preprocess.normalize(values)[0, 0].tolist() == [-1, 0, 1]
    whole = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 256).expand(3, 1, 256)
    assert torch.equal(preprocess.denormalize(preprocess.normalize(whole)), whole)
    assert AugmentConfig().flip == 0.5


def test_t8_the_inception_crop():
    generator = np.random.default_rng(0)
    config = AugmentConfig(crop="inception", crop_area=(0.05, 1.0))
    for _ in range(200):
        box = inception_crop(Size(90, 70), config, generator)
        height, width = box.bottom - box.top, box.right - box.left
        assert 0.05 <= height * width / 6_300 <= 1
        assert 3 / 4 <= width / height <= 4 / 3
    assert inception_crop(Size(2, 90), config, generator) == (0, 0, 2, 90)


def test_t9_the_sigmoid_loss_is_summed_over_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    target = torch.rand(5, 7, generator=generator, dtype=torch.float64)
    losses = sigmoid_loss(logits, target, 0.0, None)
    expected = functional.binary_cross_entropy_with_logits(
        logits, target, reduction="sum"
    )
    mean = losses.per_image.sum() / losses.divisor
    assert mean.item() == pytest.approx(expected.item() / 5, rel=1e-12)


@pytest.mark.parametrize(
    ("recipe", "data", "updates"),
    [
        ("plain_vit.s16_90", "imagenet", 111_477),
        ("vit.imagenet.b16", "imagenet", 92_897),
        ("vit.jft.b16", "jft300m", 517_822),
        ("vit.imagenet21k.b16", "imagenet21k", 311_948),
    ],
)
def test_t10_updates(recipe, data, updates):
    assert (
        estimate_workload(vitral.recipes.get_recipe(recipe)(data, "")).updates
        == updates
    )


def test_t11_a_new_head(tmp_path: Path):
    model = vit(representation_size=24).float()
    vitral.weights.save(tmp_path / "file", model, Preprocess(image_size=(48, 80)))
    source = vitral.weights.read(tmp_path / "file")
    settings = {"num_classes": 11, "representation_size": 0, "image_size": (64, 112)}
    loaded = vitral.weights.build(source, replace_config(source.config, settings))
    state = loaded.model.state_dict()
    assert not any(name.startswith("pre_logits") for name in state)
    assert torch.equal(state["head.weight"], torch.zeros(11, 24))
    assert state["pos_embed"].shape == (1, 1 + 4 * 7, 24)
    before = model.state_dict()
    same = set(state) - {"head.weight", "head.bias", "pos_embed"}
    assert len(same) > 20
    assert all(torch.equal(state[name], before[name]) for name in same)


def test_t12_the_average_of_ones_from_zero():
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    average = create_ema(model, 0.9999, warmup=False)
    nn.init.ones_(model.weight)
    for _ in range(30):
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1 - 0.9999**30, rel=1e-12)
    still = create_ema(model, 0.9999, warmup=False)
    still.update_parameters(model)
    assert still.module.weight.item() == 1


def test_t13_mixup():
    image = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    target = torch.eye(5)
    for seed in range(20):
        generator = np.random.default_rng(seed)
        mixed = mix(image, target, MixConfig(mixup=0.5), generator, blend_with_previous)
        assert 0.5 <= mixed.weight <= 1
        expected = mixed.weight * image + (1 - mixed.weight) * image.roll(1, 0)
        assert torch.allclose(mixed.image, expected)
        assert torch.allclose(mixed.target.sum(1), torch.ones(5))
    alone = mix(image, target, MixConfig(), generator, blend_with_previous)
    assert torch.equal(alone.image, image)


def test_t14_a_tiny_vit_learns_32_images_by_heart():
    torch.manual_seed(0)
    model = ViT(ViTConfig(**TINY))
    objective = Supervised(model, SupervisedConfig())
    config = OptimConfig(lr=3e-3)
    top = model.config.num_blocks + 1
    groups = parameter_groups(model, config, model.layer_index, top)
    optimizer = create_optimizer(groups, config)
    batch = batch_of(32, torch.float32)
    for _ in range(60):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    assert objective(batch)["accuracy"] == 1


def test_t15_bfloat16_is_near():
    model = ViT(ViTConfig(**TINY)).eval()
    with torch.no_grad():
        nn.init.normal_(model.head.weight, std=0.1)
        image = batch_of(dtype=torch.float32).image
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            near = model(image).float()
    error = float((near - exact).norm() / exact.norm())
    assert 0 < error < 0.02
