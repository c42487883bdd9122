"""The small twin of a recipe: the same code on two cores, in a minute.

A twin keeps what decides which code runs: family, head, pooling, positions, objective,
loss, optimizer, decays, shape of the schedule, augmentation, mixing, precision. It
shrinks what decides how long that takes: widths and depths, images, batches, updates.
It shows that a recipe runs and learns, and nothing about the accuracy to expect.
"""

from dataclasses import replace
from typing import Any

import vitral.models
from vitral.models import HybridConfig, ModelConfig, ResNetConfig
from vitral.objectives import MAEConfig, ObjectiveConfig
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
    """The same recipe for a small model, small images, small batches and few updates.

    Weights that are given keep their model and their images. The rate of SGD, which
    recipes raise with the batch, falls with it.

    Args:
        steps: updates; warm-up and cool-down keep their share of the run.
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
        objective=_objective(config.objective),
        optim=optim,
        schedule=_schedule(config, steps),
        loop=_loop(config.loop, steps),
    )


def _small_model_changes(config: TrainConfig) -> dict[str, Any]:
    """The recipe's changes to the model, with the sizes of a small one on top."""
    model = vitral.models.get_config(config.model, dict(config.model_changes))
    changes: dict[str, Any] = {**config.model_changes, **_sizes(model)}
    if config.model_changes.get("representation_size"):
        changes["representation_size"] = VIT["embed_dim"]
    return changes


def _sizes(model: ModelConfig) -> dict[str, Any]:
    if isinstance(model, ResNetConfig):
        return RESNET
    if isinstance(model, HybridConfig):
        # Its name's patch is the stride of a ResNet of more stages.
        units = (1, 1) if model.units else ()
        return {**VIT, **RESNET, "units": units, "patch_size": 8}
    return {**VIT, "patch_size": 8}


def _objective(objective: ObjectiveConfig) -> ObjectiveConfig:
    if isinstance(objective, MAEConfig):
        return replace(objective, decoder_dim=24, decoder_depth=1, decoder_heads=3)
    return objective


def _schedule(config: TrainConfig, steps: int) -> ScheduleConfig:
    """The same shape: of a run whose length is not known, a tenth warms up."""
    schedule, whole = config.schedule, config.loop.steps
    warmup = steps // 10 if schedule.warmup else 0
    cooldown = steps // 10 if schedule.cooldown else 0
    timescale = max(1, schedule.timescale * steps // whole) if whole else steps
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
