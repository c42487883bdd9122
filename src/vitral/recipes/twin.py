"""The twin of a recipe: a small version that runs in a minute on two cores.

It keeps what decides which code runs: family, head, pooling, positions, objective,
loss, optimizer, decays, schedule, augmentation, mixing, precision. It shrinks widths,
depths, images, batches and updates, so its accuracy means nothing.
"""

from dataclasses import replace
from typing import Any

import vitral.models
from vitral.models import HybridConfig, ModelConfig, ResNetConfig
from vitral.training import LoopConfig, ScheduleConfig
from vitral.workflows import TrainConfig

STEPS = 60
BATCH = 32
PIXELS = 32
VIT: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_dim": 96}
RESNET: dict[str, Any] = {
    "units": (1, 1),
    "width_factor": 1,
    "stem_width": 16,
    "num_groups": 8,
}


def twin(config: TrainConfig, *, steps: int = STEPS) -> TrainConfig:
    """Shrink the model, the images, the batches and the updates of a recipe.

    Given weights keep their model and image size. The rate of SGD, which recipes scale
    with the batch, is scaled down.

    Args:
        steps: updates of the twin.
    """
    fields: dict[str, Any] = {}
    if not config.weights:
        fields["model_changes"] = _small_model_changes(config)
        fields["image_size"] = PIXELS
    else:
        fields["image_size"] = 0
    optim = config.optim
    if optim.optimizer == "sgd":
        optim = replace(optim, lr=optim.lr * BATCH / config.batch_size)
    return replace(
        config,
        **fields,
        expected="a twin: it runs and learns, and says nothing about accuracy",
        resolutions=(),
        freeze=min(config.freeze, VIT["depth"]),
        batch_size=BATCH,
        objective=config.objective.shrink(),
        optim=optim,
        schedule=_schedule(config, steps),
        loop=_loop(config.loop, steps),
    )


def _small_model_changes(config: TrainConfig) -> dict[str, Any]:
    """Return the recipe's changes to the model, with the sizes of a small one."""
    model = vitral.models.get_config(config.model, dict(config.model_changes))
    changes: dict[str, Any] = {**config.model_changes, **_sizes(model)}
    if config.model_changes.get("representation_size"):
        changes["representation_size"] = VIT["embed_dim"]
    return changes


def _sizes(model: ModelConfig) -> dict[str, Any]:
    if isinstance(model, ResNetConfig):
        return RESNET
    if isinstance(model, HybridConfig):
        # The patch in its name is the stride of a ResNet with more stages.
        units = (1, 1) if model.units else ()
        return {**VIT, **RESNET, "units": units, "patch_size": 8}
    return {**VIT, "patch_size": 8}


def _schedule(config: TrainConfig, steps: int) -> ScheduleConfig:
    """Scale the schedule; warm-up and cool-down become a tenth of the steps."""
    schedule, total = config.schedule, config.loop.steps
    warmup = steps // 10 if schedule.warmup else 0
    cooldown = steps // 10 if schedule.cooldown else 0
    timescale = max(1, schedule.timescale * steps // total) if total else steps
    return replace(schedule, warmup=warmup, cooldown=cooldown, timescale=timescale)


def _loop(loop: LoopConfig, steps: int) -> LoopConfig:
    return replace(
        loop,
        steps=steps,
        accumulate=min(loop.accumulate, 2),
        ema=min(loop.ema, 0.9),
        eval_every=steps // 2 if loop.eval_every else 0,
        checkpoint_every=steps // 2 if loop.checkpoint_every else 0,
    )
