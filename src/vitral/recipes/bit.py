"""Fine-tuning a ResNet by the BiT-HyperRule (arXiv 1912.11370, section 3.3).

One rule for every data set: the number of images gives the steps and whether mixup is
used, the size of the images gives that of the crop. Nothing is searched.
"""

from typing import NamedTuple

import vitral.data
from vitral.data import AugmentConfig, MixConfig
from vitral.models import Size2d
from vitral.objectives import SupervisedConfig
from vitral.recipes.dataset_facts import summarize_dataset
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

LRS: tuple[float, ...] = (0.003,)
"""One rate, for a batch of 512."""
SMALL_IMAGE = 96 * 96
"""Pixels of an image; from there on it is a large one."""


class HyperRule(NamedTuple):
    """What the size of a data set decides."""

    steps: int
    warmup: int
    resize: int
    """Height and width in pixels, before the random crop."""
    crop: int
    """Height and width of what the network sees."""
    mixup: float
    """Alpha; 0 for none."""


def rule_for(images: int, height: int, width: int) -> HyperRule:
    """The rule for so many training images of a usual height and width in pixels."""
    size = (160, 128) if height * width < SMALL_IMAGE else (448, 384)
    if images < 20_000:
        return HyperRule(500, 100, *size, 0.0)
    return HyperRule(10_000 if images < 500_000 else 20_000, 500, *size, 0.1)


def hyperrule(data: str, weights: str) -> TrainConfig:
    """SGD with momentum, rate 0.003 divided by ten after 30, 60 and 90 % of the steps.

    Command: `vitral train cifar10 --recipe bit.hyperrule --weights R50x1.npz
    --out runs/cifar10`
    Cost: for R50x1 on CIFAR-10, 10,000 steps of 512 images at 128 pixels: 1.3e9
    multiply-accumulates forward x 5.1e6 images; a matter of GPU-hours, not of a laptop.
    Expect: the paper's own numbers need the paper's weights; none was run here.

    Large images are 448 pixels before the crop of 384, as the paper has it; the
    released code later took 512 and 480.
    """
    facts = summarize_dataset(data)
    there = vitral.data.open(data).counts()
    images = sum(sum(there.get(split, {}).values()) for split in ("train", "val"))
    rule = rule_for(images, facts.height, facts.width)
    image_size: Size2d = rule.crop
    kept = (rule.crop / rule.resize) ** 2
    return TrainConfig(
        data=data,
        recipe="bit.hyperrule",
        expected="not measured here",
        weights=weights,
        image_size=image_size,
        preprocess_changes={"resize": "squash", "crop_fraction": 1.0},
        batch_size=512,
        augment=AugmentConfig(crop="window", crop_area=(kept, 1.0), flip=0.5),
        mix=MixConfig(mixup=rule.mixup),
        objective=SupervisedConfig(loss="sigmoid" if facts.multi_label else "softmax"),
        optim=OptimConfig(optimizer="sgd", lr=LRS[0], momentum=0.9, clip_norm=0.0),
        schedule=ScheduleConfig(schedule="step", warmup=rule.warmup),
        loop=LoopConfig(
            steps=rule.steps,
            accumulate=8,
            eval_every=rule.steps // 10,
            checkpoint_every=rule.steps // 10,
        ),
    )
