"""The BiT-HyperRule: its table, its schedule's numbers, and who gets it."""

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
from helpers import randomise
from photos import make_photos
from vitral.data import Augment, AugmentConfig, Preprocess
from vitral.errors import ConfigError
from vitral.models import ResNetConfig, build_model
from vitral.recipes import bit, plan_finetuning
from vitral.training import ScheduleConfig, lr_at
from vitral.workflows.runtime import Runtime


@pytest.mark.parametrize(
    ("images", "steps", "warmup", "mixup"),
    [
        (19_999, 500, 100, 0.0),
        (20_000, 10_000, 500, 0.1),
        (499_999, 10_000, 500, 0.1),
        (500_000, 20_000, 500, 0.1),
    ],
)
def test_the_number_of_images_gives_steps_and_mixup(images, steps, warmup, mixup):
    rule = bit.rule_for(images, 32, 48)
    assert (rule.steps, rule.warmup, rule.mixup) == (steps, warmup, mixup)


@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"),
    [(32, 32, 160, 128), (95, 97, 160, 128), (96, 96, 448, 384), (48, 400, 448, 384)],
)
def test_the_size_of_the_images_gives_the_crop(height, width, resize, crop):
    rule = bit.rule_for(1, height, width)
    assert (rule.resize, rule.crop) == (resize, crop)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (250, 0.0015),
        (500, 0.003),
        (3_000, 0.003),
        (3_001, 3e-4),
        (6_000, 3e-4),
        (6_001, 3e-5),
        (9_001, 3e-6),
        (9_999, 3e-6),
    ],
)
def test_the_schedule_of_fifty_thousand_images(step, rate):
    rule = bit.rule_for(50_000, 32, 32)
    config = ScheduleConfig(schedule="step", warmup=rule.warmup)
    assert lr_at(step, rule.steps, 0.003, config) == pytest.approx(rate, rel=1e-12)


def test_boundaries_that_are_no_whole_steps():
    config = ScheduleConfig(schedule="step")
    rates = [lr_at(step, 7, 1.0, config) for step in range(7)]
    # 30, 60 and 90 % of 7 are 2.1, 4.2 and 6.3.
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_step_schedule_has_no_cooldown():
    with pytest.raises(ConfigError, match="step ends low by itself"):
        ScheduleConfig(schedule="step", cooldown=3)


def test_the_window_is_cut_from_the_larger_image():
    # Red is the row, green the column, so that a corner tells its place.
    rows, columns = np.mgrid[0:40, 0:64]
    pixels = np.stack([rows * 4, columns * 3, rows * 0], -1).astype(np.uint8)
    preprocess = Preprocess(image_size=(32, 48), mean=(0.0,) * 3, std=(1.0,) * 3)
    config = AugmentConfig(crop="window", crop_area=(0.64, 1.0), flip=0.0)
    augment = Augment(config=config, preprocess=preprocess)
    larger = Preprocess(image_size=(40, 60)).resize_and_crop(Image.fromarray(pixels))
    places = set()
    for number in range(200):
        found = augment(Image.fromarray(pixels), str(number), 0) * 255
        assert found.shape == (3, 32, 48)
        fits = [
            (top, left)
            for top in range(9)
            for left in range(13)
            if torch.allclose(
                found, larger[:, top : top + 32, left : left + 48], atol=1e-3
            )
        ]
        assert len(fits) == 1
        places |= set(fits)
    assert {top for top, _ in places} == set(range(9))
    assert {left for _, left in places} == set(range(13))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("bit")
    config = ResNetConfig(
        units=(1, 2), stem_width=8, num_groups=4, image_size=(64, 96), num_classes=7
    )
    model = build_model(config)
    randomise(model)
    vt.save(folder, model, Preprocess(image_size=(64, 96)))
    return str(folder)


def test_a_bit_resnet_gets_the_rule(weights, tmp_path):
    photos = str(make_photos(tmp_path / "p", splits=("train", "test"), per_class=2))
    found = plan_finetuning(weights, photos)
    assert found.why.startswith("bit.hyperrule")
    assert "BiT ResNet" in found.why
    assert found.lrs == (0.003,)
    assert found.differs == ()
    config = found.config
    assert config.image_size == 128  # of 40 x 56
    assert config.augment.crop == "window"
    assert config.augment.crop_area[0] == pytest.approx(0.64)
    assert (config.batch_size, config.loop.steps) == (512, 500)
    assert (config.optim.optimizer, config.optim.momentum) == ("sgd", 0.9)
    assert (config.optim.weight_decay, config.optim.clip_norm) == (0.0, 0.0)
    assert config.schedule.schedule == "step"
    assert config.mix.mixup == 0.0
    short = plan_finetuning(weights, photos, steps=20, image_size=(64, 96))
    assert short.config.schedule.warmup == 4
    assert short.differs == (
        "image size (64, 96) instead of 128",
        "steps 20 instead of 500",
    )


@pytest.mark.usefixtures("no_report")
def test_a_bit_resnet_is_fine_tuned(weights, tmp_path):
    from vitral.workflows.transfer.finetune import finetune

    photos = str(make_photos(tmp_path / "p", splits=("train", "test"), per_class=4))
    short = plan_finetuning(
        weights, photos, steps=3, image_size=(64, 96), batch_size=5, seeds=1
    )
    found = finetune(short, tmp_path / "out", runtime=Runtime(device="cpu"))
    assert 0 <= found.accuracy <= 1
    assert found.finals[0].n == 12
