"""Training settings that studies share: small ones for two cores, and the papers'."""

from dataclasses import dataclass, replace
from typing import Any

from vitral.data import AugmentConfig
from vitral.recipes.vit import TABLE_4
from vitral.tasks import get_objective
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig


@dataclass(frozen=True, slots=True)
class ModelVariant:
    """A named model and the fields of its config that a study changes."""

    model: str
    changes: dict[str, Any]


TINY: dict[str, Any] = {
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "mlp_dim": 128,
    "class_token": False,
    "global_pool": "avg",
}
"""A ViT that learns digits in seconds."""


TINY_RESNET = ModelVariant(
    "bit_r26x1", {"units": (1, 1), "stem_width": 24, "num_groups": 8}
)
"""A BiT ResNet of two stages that costs about as much as TINY."""


def small_config(
    data: str,
    seed: int,
    *,
    model: str = "vit_ti7",
    changes: dict[str, Any] = TINY,
    image_size: int = 28,
    steps: int,
    lr: float,
) -> TrainConfig:
    """Return a tiny training that takes seconds: batch 50, AdamW, softmax, shifts."""
    return TrainConfig(
        data=data,
        recipe="study",
        model=model,
        model_changes=changes,
        image_size=image_size,
        batch_size=50,
        seed=seed,
        augment=AugmentConfig(flip=0.0, shift=0.06),
        objective=get_objective("supervised", loss="softmax"),
        optim=OptimConfig(lr=lr, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=steps // 10),
        loop=LoopConfig(steps=steps, log_every=50),
    )


def mnist_config(
    changes: dict[str, Any],
    seed: int,
    *,
    model: str = "vit_ti7",
    image_size: int = 28,
    epochs: float = 20.0,
    lr: float = 3e-3,
    vit: bool = True,
) -> TrainConfig:
    """Return a tiny training on 1,500 MNIST digits; 3,000 are test, 500 are val.

    Args:
        changes: fields of the model, on top of TINY for a ViT.
        seed: of the split too, so that seeds differ in their images.
        vit: False for a model that TINY does not fit.
    """
    config = small_config(
        "mnist_5k",
        seed,
        model=model,
        changes={**TINY, **changes} if vit else changes,
        image_size=image_size,
        steps=round(epochs * 1500 / 50),
        lr=lr,
    )
    return replace(config, val=0.1, test=0.6)


PRETRAIN_HEAD: dict[str, Any] = {"representation_size": 768, "drop_rate": 0.1}
"""The hidden layer of ViT-B's head in pre-training, and table 3's dropout."""


def imagenet_config(model: str, changes: dict[str, Any], seed: int) -> TrainConfig:
    """Return table 3's row for ImageNet: 300 epochs of AdamW, batch 4096, 224 pixels.

    Args:
        changes: fields of the model; PRETRAIN_HEAD for a ViT as in pre-training.
    """
    return TrainConfig(
        data="imagenet",
        recipe="study",
        val=0.01,
        model=model,
        model_changes=changes,
        image_size=224,
        batch_size=4096,
        epochs=300.0,
        seed=seed,
        augment=AugmentConfig(crop="inception", crop_area=(0.05, 1.0), flip=0.5),
        objective=get_objective("supervised", loss="sigmoid"),
        optim=OptimConfig(lr=3e-3, weight_decay=0.3, clip_norm=1.0),
        schedule=ScheduleConfig(warmup=10_000),
        loop=LoopConfig(
            precision="bf16",
            accumulate=8,
            eval_every=5_000,
            checkpoint_every=5_000,
        ),
    )


def with_lr(config: TrainConfig, lr: float) -> TrainConfig:
    """Return `config` with another highest learning rate."""
    return replace(config, optim=replace(config.optim, lr=lr))


def finetune_config(
    data: str, weights: str, seed: int, *, image_size: int
) -> TrainConfig:
    """Return table 4's fine-tune: SGD, cosine, no decay, batch 512.

    Args:
        weights: the initial weights, or the key of the trial that makes them.
    """
    row = TABLE_4[data]
    return TrainConfig(
        data=data,
        recipe="study",
        val=row.dev_share,
        weights=weights,
        image_size=image_size,
        batch_size=512,
        seed=seed,
        preprocess_changes={"resize": "squash", "crop_fraction": 1.0},
        augment=AugmentConfig(crop="inception", crop_area=(0.05, 1.0), flip=0.5),
        objective=get_objective("supervised", loss="softmax"),
        optim=OptimConfig(optimizer="sgd", lr=0.01, momentum=0.9, clip_norm=1.0),
        schedule=ScheduleConfig(warmup=min(500, row.steps // 5)),
        loop=LoopConfig(steps=row.steps, accumulate=8, precision="bf16"),
    )


def digits_config(
    weights: str, seed: int, *, image_size: int, lr: float
) -> TrainConfig:
    """Return a short fine-tune on about 180 of scikit-learn's digits; 1,530 are test.

    Args:
        weights: the initial weights, or the key of the trial that makes them; empty
            for TINY's ViT from zero.
    """
    config = small_config("digits", seed, image_size=image_size, steps=300, lr=lr)
    if weights:
        config = replace(config, model="", model_changes={}, weights=weights)
    return replace(config, val=0.05, test=0.85, batch_size=30)


def cifar10_scratch_config(seed: int) -> TrainConfig:
    """Return ViT-B/16 on CIFAR-10 alone, with table 3's settings for ImageNet."""
    config = imagenet_config("vit_b16", {"drop_rate": 0.1}, seed)
    return replace(
        config,
        data="cifar10",
        val=TABLE_4["cifar10"].dev_share,
        schedule=ScheduleConfig(warmup=500),
        loop=replace(config.loop, eval_every=500, checkpoint_every=500),
    )
