"""Fine-tuning a ResNet by the BiT-HyperRule (arXiv 1912.11370, section 3.3).

The number of images decides the steps and the mixup, the size of the images decides the
crop. No setting is searched.
"""

from dataclasses import dataclass

import vitral.data
from vitral.data import AugmentConfig, MixConfig
from vitral.objectives import SupervisedConfig
from vitral.recipes.dataset_facts import summarize_dataset
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

LRS: tuple[float, ...] = (0.003,)
"""One rate, for a batch of 512."""
SMALL_IMAGE = 96 * 96
"""Pixels of an image; from this size on it is large."""


@dataclass(frozen=True, slots=True)
class HyperRule:
    """Settings that the size of a data set decides."""

    steps: int
    warmup: int
    resize: int
    """Height and width in pixels, before the random crop."""
    crop: int
    """Height and width of the network's input."""
    mixup: float
    """Alpha. 0: no mixup."""


def rule_for(images: int, height: int, width: int) -> HyperRule:
    """Return the rule for a number of training images of a median size in pixels."""
    size = (160, 128) if height * width < SMALL_IMAGE else (448, 384)
    if images < 20_000:
        return HyperRule(500, 100, *size, 0.0)
    return HyperRule(10_000 if images < 500_000 else 20_000, 500, *size, 0.1)


def hyperrule(data: str, weights: str) -> TrainConfig:
    """Fine-tune by SGD with momentum, with a rate of 0.003 and the schedule `step`.

    Command: `vitral train cifar10 --recipe bit.hyperrule --weights R50x1.npz
    --out runs/cifar10`
    Cost: for R50x1 on CIFAR-10, 10,000 steps of 512 images at 128 pixels: 1.3e9
    multiply-accumulates forward x 5.1e6 images; a matter of GPU-hours, not of a laptop.
    Expect: the paper's own numbers need the paper's weights; none was run here.

    The rate is divided by ten after 30, 60 and 90 % of the steps. Large images are 448
    pixels before the crop of 384, as in the paper; the released code later took 512 and
    480.
    """
    facts = summarize_dataset(data)
    counts = vitral.data.open(data).counts()
    images = sum(sum(counts.get(split, {}).values()) for split in ("train", "val"))
    rule = rule_for(images, facts.height, facts.width)
    area = (rule.crop / rule.resize) ** 2
    return TrainConfig(
        data=data,
        recipe="bit.hyperrule",
        expected="not measured here",
        weights=weights,
        image_size=rule.crop,
        preprocess_changes={"resize": "squash", "crop_fraction": 1.0},
        batch_size=512,
        augment=AugmentConfig(crop="window", crop_area=(area, 1.0), flip=0.5),
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
