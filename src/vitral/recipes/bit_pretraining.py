"""The pre-training of BiT ResNets (arXiv 1912.11370, section 3.2): S, M and L.

S is ImageNet, M ImageNet-21k, L JFT-300M. The settings are the same for every depth and
width, so the model is a flag: `--model bit_r152x4`. Fine-tuning is in bit.py.
"""

from dataclasses import replace

from vitral.objectives import SupervisedConfig
from vitral.recipes.table import LONG_LOOP
from vitral.recipes.vit_pretraining import INCEPTION, SHORT_SIDE_256
from vitral.training import OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

BATCH = 4096
LR = 0.03 * BATCH / 256
"""0.03 for 256 images, scaled with the batch."""


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
        objective=SupervisedConfig(loss="softmax"),
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
        objective=SupervisedConfig(loss="sigmoid"),
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


RECIPES = {"bit.s": small, "bit.m": medium, "bit.l": large}
