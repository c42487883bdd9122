"""Masked patch prediction (arXiv 2010.11929, section 4.6 and appendix B.1.2).

`vitral.objectives.masked_patch` marks the choices that the paper leaves open.
"""

from dataclasses import replace

from vitral.objectives import MaskedPatchConfig
from vitral.recipes.table import LONG_LOOP
from vitral.recipes.vit_pretraining import INCEPTION
from vitral.training import OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig


def pretrain(data: str, weights: str = "") -> TrainConfig:
    """Corrupt half of the patch embeddings, and predict their mean colour.

    Command: `vitral train jft300m --recipe vit.masked_patch --out runs/masked_patch`
    Cost: 4.32e20 floating-point operations (1.76e10 multiply-accumulates an image,
        4.10e9 images). A tenth of the updates gives most of what it gains.
    Expect: the paper reports 79.9 % on ImageNet after fine-tuning; not run here.

    Adam for a million updates, without weight decay, which the paper does not mention.
    Images need no labels. The other two targets are `--target small_patch` and
    `--target pixels`.
    """
    return TrainConfig(
        data=data,
        val=0.0,
        test=0.0,
        recipe="vit.masked_patch",
        expected=(
            "the paper reports 79.9 % on ImageNet after fine-tuning; not run here"
        ),
        model="vit_b16",
        weights=weights,
        image_size=224,
        batch_size=4096,
        augment=INCEPTION,
        objective=MaskedPatchConfig(),
        optim=OptimConfig(lr=2e-4, clip_norm=0.0),
        schedule=ScheduleConfig(schedule="cosine", warmup=10_000),
        loop=replace(LONG_LOOP, steps=1_000_000, accumulate=8, monitor="loss"),
    )


RECIPES = {"vit.masked_patch": pretrain}
