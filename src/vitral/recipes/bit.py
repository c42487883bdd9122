"""BiT ResNets (arXiv 1912.11370): pre-training, and fine-tuning by the BiT-HyperRule.

Pre-training (section 3.2) has the same settings for every depth and width, so the model
is a flag: `--model bit_r152x4`. S is ImageNet, M ImageNet-21k, L JFT-300M. The
HyperRule (section 3.3) searches no setting: the number of images decides the steps and
the mixup, their size the crop.
"""

from dataclasses import dataclass, replace

import vitral.data
from vitral.data import AugmentConfig, MixConfig
from vitral.recipes.dataset_facts import summarize_dataset
from vitral.recipes.table import LONG_LOOP
from vitral.recipes.vit_pretraining import INCEPTION, SHORT_SIDE_256
from vitral.tasks import get_objective
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

LRS: tuple[float, ...] = (0.003,)
"""One rate, for a batch of 512."""
SMALL_IMAGE = 96 * 96
"""Pixels of an image; from this size on it is large."""
BATCH = 4096
LR = 0.03 * BATCH / 256
"""0.03 for 256 images, scaled with the batch."""


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
    sizes = vitral.data.open(data).sizes()
    images = sizes.get("train", 0) + sizes.get("val", 0)
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
        objective=facts.objective(),
        optim=OptimConfig(optimizer="sgd", lr=LRS[0], momentum=0.9, clip_norm=0.0),
        schedule=ScheduleConfig(schedule="step", warmup=rule.warmup),
        loop=LoopConfig(
            steps=rule.steps,
            accumulate=8,
            eval_every=rule.steps // 10,
            checkpoint_every=rule.steps // 10,
        ),
    )


def small(data: str, weights: str = "") -> TrainConfig:
    """Train BiT-S: 90 epochs of ImageNet, a tenth of the rate after 30, 60 and 80.

    Command: `vitral train imagenet --recipe bit.s --model bit_r50x1 --out runs/bit_s`
    Cost: 2.80e18 floating-point operations for R50x1.
    Expect: the paper reports 81.30 % on ImageNet for R152x4 after fine-tuning; not run
        here.

    The loss is the softmax cross-entropy, decay 1e-4 on kernels, no clipping.
    """
    return TrainConfig(
        data=data,
        val=0.01,
        test=0.0,
        recipe="bit.s",
        expected=_expected_note(81.30),
        model="bit_r50x1",
        weights=weights,
        image_size=224,
        preprocess_changes=SHORT_SIDE_256,
        batch_size=BATCH,
        epochs=90.0,
        augment=INCEPTION,
        objective=get_objective("supervised", loss="softmax"),
        optim=OptimConfig(
            optimizer="sgd", lr=LR, momentum=0.9, weight_decay=1e-4, clip_norm=0.0
        ),
        schedule=ScheduleConfig(schedule="step_of_90", warmup=5_000),
        loop=replace(LONG_LOOP, accumulate=16),
    )


def medium(data: str, weights: str = "") -> TrainConfig:
    """Train BiT-M: the same on ImageNet-21k.

    Command: `vitral train imagenet21k --recipe bit.m --model bit_r101x3 --out runs/m`
    Cost: 3.17e19 floating-point operations for R50x1.
    Expect: the paper reports 85.39 % on ImageNet for R152x4 after fine-tuning; not run
        here.
    """
    return replace(
        small(data, weights),
        recipe="bit.m",
        expected=_expected_note(85.39),
        val=0.0,
        objective=get_objective("supervised", loss="sigmoid"),
        model_changes={"head_bias": -10.0},
    )


def large(data: str, weights: str = "") -> TrainConfig:
    """Train BiT-L: 40 epochs of JFT-300M, a tenth of the rate after 10, 23, 30 and 37.

    Command: `vitral train jft300m --recipe bit.l --model bit_r152x4 --out runs/bit_l`
    Cost: 3.00e20 floating-point operations for R50x1.
    Expect: the paper reports 87.54 % on ImageNet for R152x4 after fine-tuning; not run
        here.
    """
    return replace(
        medium(data, weights),
        recipe="bit.l",
        expected=_expected_note(87.54),
        epochs=40.0,
        schedule=ScheduleConfig(schedule="step_of_40", warmup=5_000),
    )


def _expected_note(top1: float) -> str:
    return (
        f"the paper reports {top1:.2f} % on ImageNet for R152x4 after fine-tuning; not "
        "run here"
    )


RECIPES = {
    "bit.hyperrule": hyperrule,
    "bit.s": small,
    "bit.m": medium,
    "bit.l": large,
}
