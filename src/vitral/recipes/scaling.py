"""The largest models of "Scaling Vision Transformers" (arXiv 2106.04560): g/14, G/14.

After the warm-up the rate falls as the root of the steps; a cool-down can start at any
step. The head's kernels decay a hundred times as much as the body's. torch's Adafactor
has no first moment: see `vitral.training.create_optimizer` and docs/recipes.md.
"""

from dataclasses import replace
from typing import Any

from vitral.recipes.vit_pretraining import INCEPTION, SHORT_SIDE_256
from vitral.tasks import get_objective
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

MAP_HEAD: dict[str, Any] = {
    "class_token": False,
    "global_pool": "map",
    "head_bias": -10.0,
}
"""Attention pooling replaces the class token, which would make 257 tokens of 256."""


def gigantic14(data: str, weights: str = "") -> TrainConfig:
    """Train ViT-G/14 on JFT-3B for a million updates of 16,384 images.

    Command: `vitral train jft3b --recipe scaling.gigantic14 --out runs/gigantic14`
    Cost: 4.75e22 floating-point operations (4.83e11 multiply-accumulates an image,
        1.64e10 images); state 1,400 times smaller than AdamW's.
    Expect: the paper reports 90.45 % on ImageNet after fine-tuning at 518 pixels; not
        run here.
    """
    return TrainConfig(
        data=data,
        val=0.0,
        test=0.0,
        recipe="scaling.gigantic14",
        expected=(
            "the paper reports 90.45 % on ImageNet after fine-tuning at 518 pixels; "
            "not run here"
        ),
        model="vit_gigantic14",
        model_changes=MAP_HEAD,
        weights=weights,
        image_size=224,
        preprocess_changes=SHORT_SIDE_256,
        batch_size=16_384,
        augment=INCEPTION,
        objective=get_objective("supervised", loss="sigmoid"),
        optim=OptimConfig(
            optimizer="adafactor",
            lr=8e-4,
            weight_decay=0.03,
            head_decay=3.0,
            clip_norm=1.0,
        ),
        schedule=ScheduleConfig(
            schedule="rsqrt", warmup=10_000, timescale=10_000, cooldown=50_000
        ),
        loop=LoopConfig(
            steps=1_000_000,
            precision="bf16",
            accumulate=32,
            eval_every=10_000,
            checkpoint_every=5_000,
        ),
    )


def giant14(data: str, weights: str = "") -> TrainConfig:
    """Train ViT-g/14 with the settings of G/14.

    Command: `vitral train jft3b --recipe scaling.giant14 --out runs/giant14`
    Cost: 2.63e22 floating-point operations (2.67e11 multiply-accumulates an image).
    Expect: the paper shows this model in graphs alone; not run here.
    """
    return replace(
        gigantic14(data, weights),
        recipe="scaling.giant14",
        expected="the paper shows this model in graphs alone; not run here",
        model="vit_giant14",
    )


RECIPES = {"scaling.giant14": giant14, "scaling.gigantic14": gigantic14}
