"""DeiT: ImageNet alone, strong augmentation, with or without a teacher (2012.12877).

Differences from the released training (arXiv 2012.12877): RandAugment without noise on
its magnitude, a warm-up from 0 instead of 1e-6, and vitral's weight initialisation. Its
colour jitter of 0.3 is left out, because its library ignores it with RandAugment.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from vitral.data import AugmentConfig, MixConfig
from vitral.recipes.table import LONG_LOOP, Recipe, make_recipe
from vitral.tasks import get_objective
from vitral.training import OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig
from vitral.workflows.cost import PUBLISHED_SIZES

BATCH = 1024
IMAGENET: dict[str, Any] = {
    "resize": "crop",
    "crop_fraction": 0.875,
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""Bicubic resize, and the mean and standard deviation of ImageNet's colours."""
STRONG = AugmentConfig(
    crop="inception",
    crop_area=(0.08, 1.0),
    flip=0.5,
    rand_augment=2,
    rand_augment_magnitude=27,  # timm's 9 of 10
    random_erasing=0.25,
)
"""RandAugment `m9` and erasing; masked autoencoders are fine-tuned with it too."""
MIX = MixConfig(mixup=0.8, cutmix=1.0)


SIZES = {"ti16": (72.2, 74.5), "s16": (79.9, 81.2), "b16": (81.8, 83.4)}
"""Top-1 % on ImageNet at 224 pixels (table 5), without and with a teacher."""


def updates_for_epochs(epochs: int, batch_size: int) -> int:
    """Return the updates of so many epochs of ImageNet."""
    return round(PUBLISHED_SIZES["imagenet"].images * epochs / batch_size)


def supervised(size: str, data: str, weights: str = "") -> TrainConfig:
    """Train a plain ViT for 300 epochs: AdamW, rate 5e-4 for 512 images, decay 0.05.

    The warm-up is five epochs of ImageNet; set `--warmup` for other data.
    """
    return TrainConfig(
        data=data,
        val=0.0,
        test=0.0,
        recipe=f"deit.{size}",
        expected=(f"the paper reports {SIZES[size][0]} % on ImageNet; not run here"),
        model=f"vit_{size}",
        model_changes={"act": "gelu", "drop_path_rate": 0.1},
        weights=weights,
        image_size=224,
        preprocess_changes=IMAGENET,
        batch_size=BATCH,
        epochs=300.0,
        augment=replace(STRONG, repeats=3),
        mix=MIX,
        objective=get_objective("supervised", loss="softmax", smoothing=0.1),
        optim=OptimConfig(lr=5e-4 * BATCH / 512, weight_decay=0.05, clip_norm=0.0),
        schedule=ScheduleConfig(
            schedule="cosine", warmup=updates_for_epochs(5, BATCH), end_lr=1e-5
        ),
        loop=replace(LONG_LOOP, accumulate=4),
    )


def distill(size: str, data: str, weights: str = "") -> TrainConfig:
    """Add a distillation token that learns the teacher's most likely class.

    The teacher is a run or a file of weights with a head for the same classes
    (`--teacher`); the paper's is a RegNetY-16GF, which vitral does not have.
    """
    parent = supervised(size, data, weights)
    return replace(
        parent,
        recipe=f"deit.{size}_distilled",
        expected=(
            f"the paper reports {SIZES[size][1]} % on ImageNet with its own "
            "teacher; not run here"
        ),
        model=f"deit_{size}",
        objective=get_objective("distill", kind="hard", share=0.5, smoothing=0.1),
    )


def build_recipe(size: str, taught: bool) -> Recipe:
    """Build the recipe of one of the six published models."""
    build = partial(distill if taught else supervised, size)
    model = f"deit_{size}" if taught else f"vit_{size}"
    how = ", taught by another model" if taught else ""
    summary = f"DeiT: {model} on ImageNet for 300 epochs{how}."
    return make_recipe(build, summary, flags="--teacher RUN " if taught else "")


RECIPES = {
    f"deit.{size}{'_distilled' if taught else ''}": build_recipe(size, taught)
    for taught in (False, True)
    for size in SIZES
}
