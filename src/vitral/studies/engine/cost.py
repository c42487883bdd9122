"""Estimate parameters, compute and images of trials before they run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import vitral.models
from vitral.errors import ConfigError
from vitral.models import ModelConfig
from vitral.studies.engine.base import Trial
from vitral.training import steps_for
from vitral.workflows import TrainConfig

TRAIN_IMAGES = {
    "imagenet": 1_281_167,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "oxford_iiit_pet": 3_680,
    "flowers102": 2_040,
    "kinetics400": 240_000,
}
"""Training images or clips, val included, of the papers' data sets; of Kinetics as many
as are said to be left."""
FLOPS_PER_MAC = 6
"""Two for a multiply-accumulate forward, four backward; as the paper counts
(arXiv 2010.11929, table 6)."""
BYTES_PER_PARAMETER = {"adamw": 16, "sgd": 12}
"""Weight, gradient and the optimizer's averages in float32."""


@dataclass(frozen=True, slots=True)
class TrialCost:
    """Cost of one trial."""

    model: ModelConfig
    parameters: int
    images: int
    """Images that pass through the model in training."""
    exaflops: float
    """Compute of training, in 1e18 operations."""
    state_bytes: int
    """Bytes of weights, gradients and optimizer, without activations."""


def estimate_costs(trials: Sequence[Trial]) -> dict[str, TrialCost]:
    """Return the cost of each trial by its key.

    Raises:
        ConfigError: a trial's data set is none of TRAIN_IMAGES.
    """
    costs: dict[str, TrialCost] = {}
    for trial in trials:
        before = costs[trial.after].model if trial.after else None
        model = _model_config(trial.config, before)
        shapes = vitral.models.tensor_shapes(model)
        parameters = sum(math.prod(shape) for shape in shapes.values())
        images = _images_seen(trial.config)
        costs[trial.key] = TrialCost(
            model=model,
            parameters=parameters,
            images=images,
            exaflops=FLOPS_PER_MAC * model.macs() * images / 1e18,
            state_bytes=BYTES_PER_PARAMETER[trial.config.optim.optimizer] * parameters,
        )
    return costs


def _model_config(config: TrainConfig, before: ModelConfig | None) -> ModelConfig:
    changes = dict(config.model_changes)
    if config.image_size:
        changes["image_size"] = config.image_size
    if before is not None:
        return vitral.models.replace_config(before, changes)
    return vitral.models.get_config(config.model, changes)


def _images_seen(config: TrainConfig) -> int:
    if config.data not in TRAIN_IMAGES:
        raise ConfigError(
            f"The size of {config.data} is not known before it is read; known are "
            f"{', '.join(TRAIN_IMAGES)}."
        )
    images = TRAIN_IMAGES[config.data]
    steps = config.loop.steps or steps_for(images, config.epochs, config.batch_size)
    return steps * config.batch_size
