"""The settings that studies share: a small one for two cores, and the paper's own."""

from typing import Any

from vitral.data import AugmentConfig
from vitral.objectives import SupervisedConfig
from vitral.run import TrainConfig
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig

TINY: dict[str, Any] = {
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "mlp_dim": 128,
    "class_token": False,
    "global_pool": "avg",
}
"""A ViT that learns digits in seconds."""


def mnist(
    changes: dict[str, Any],
    seed: int,
    *,
    model: str = "vit_ti7",
    image_size: int = 28,
    epochs: float = 20.0,
    lr: float = 3e-3,
) -> TrainConfig:
    """A tiny ViT on 1,500 MNIST digits; 3,000 are held out, 500 choose a rate.

    Args:
        changes: fields of the model on top of TINY.
        seed: of the split too, so that seeds differ in their images.
    """
    steps = round(epochs * 1500 / 50)
    return TrainConfig(
        data="mnist_5k",
        recipe="study",
        val=0.1,
        test=0.6,
        model=model,
        model_changes={**TINY, **changes},
        image_size=image_size,
        batch_size=50,
        seed=seed,
        augment=AugmentConfig(flip=0.0, shift=0.06),
        objective=SupervisedConfig(loss="softmax"),
        optim=OptimConfig(lr=lr, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=steps // 10),
        loop=LoopConfig(steps=steps, log_every=50),
    )


def imagenet(model: str, changes: dict[str, Any], seed: int) -> TrainConfig:
    """Table 3's row for ImageNet: 300 epochs of AdamW, batch 4096, 224 pixels."""
    return TrainConfig(
        data="imagenet",
        recipe="study",
        val=0.01,
        model=model,
        model_changes={"representation_size": 768, "drop_rate": 0.1, **changes},
        image_size=224,
        batch_size=4096,
        epochs=300.0,
        seed=seed,
        augment=AugmentConfig(crop="inception", crop_area=(0.05, 1.0), flip=0.5),
        objective=SupervisedConfig(loss="sigmoid"),
        optim=OptimConfig(lr=3e-3, weight_decay=0.3, clip_norm=1.0),
        schedule=ScheduleConfig(warmup=10_000),
        loop=LoopConfig(
            precision="bf16",
            accumulate=8,
            eval_every=5_000,
            checkpoint_every=5_000,
        ),
    )
