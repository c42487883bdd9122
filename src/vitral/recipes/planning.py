"""Fine-tuning plan to measure weights: the paper's protocol or the BiT-HyperRule."""

from dataclasses import replace

import vitral.weights
from vitral.models import ModelConfig, ResNetConfig, Size2d
from vitral.recipes import bit, vit
from vitral.recipes.dataset_facts import summarize_dataset
from vitral.workflows import TrainConfig
from vitral.workflows.transfer import FinetunePlan

SEEDS = 3
"""Trainings of a result in the paper's tables."""
MICROBATCH_SIZE = 64
"""Images of a micro-batch: 512 in the paper's 8 parts."""


def plan_finetuning(
    weights: str,
    data: str,
    *,
    lrs: tuple[float, ...] = (),
    steps: int = 0,
    image_size: Size2d = 0,
    batch_size: int = 0,
    seeds: int = SEEDS,
    seed: int = 0,
) -> FinetunePlan:
    """Plan `vitral.workflows.transfer.finetune.finetune` for these weights and data.

    A BiT ResNet gets the BiT-HyperRule, with its one rate. Other models get the row of
    table 4 of arXiv 2010.11929 that fits the data. The plan lists every argument that
    differs from that.

    Args:
        data: as `vitral.data.open` takes it.
        lrs: grid of learning rates. Empty: the paper's.
        steps: updates of each training; the warm-up keeps its share. 0: the paper's.
        image_size: pixels. 0: the paper's, made a multiple of the patch.
        batch_size: images of an update. 0: the paper's 512.
        seeds: trainings with the chosen rate, with seeds from `seed` on.

    Raises:
        DataError: the data cannot be read.
        WeightsError: the weights cannot be read.
    """
    source = vitral.weights.read(weights).config
    differs: list[str] = []
    if isinstance(source, ResNetConfig):
        base = bit.hyperrule(data, weights)
        grid, dev, papers_size = bit.LRS, 0.1, base.image_size
        why = "bit.hyperrule, the BiT-HyperRule, since the weights are a BiT ResNet"
    else:
        base = _fit_to_model(vit.finetune(data, weights), source)
        row = vit.row_for(data, summarize_dataset(data).num_images)
        grid, dev, papers_size = row.lr_grid, row.dev_share, 384
        why = f"vit.finetune, table 4 of arXiv 2010.11929 ({base.loop.steps} steps)"
        if data not in vit.TABLE_4:
            differs.append(f"{data} is not in its table 4")
    config = replace(base, image_size=image_size) if image_size else base
    differs += _describe_change("image size", config.image_size, papers_size)
    if batch_size:
        parts = -(-batch_size // MICROBATCH_SIZE)
        config = replace(
            config, batch_size=batch_size, loop=replace(config.loop, accumulate=parts)
        )
        differs += _describe_change("batch", batch_size, base.batch_size)
    if steps:
        differs += _describe_change("steps", steps, base.loop.steps)
        config = _with_steps(config, steps)
    if lrs:
        differs += _describe_change(
            "learning rates", _format_rates(lrs), _format_rates(grid)
        )
    differs += _describe_change("seeds", seeds, SEEDS)
    return FinetunePlan(
        config=replace(config, seed=seed),
        lrs=lrs or grid,
        dev=dev,
        seeds=seeds,
        why=why,
        differs=tuple(differs),
    )


def _fit_to_model(config: TrainConfig, source: ModelConfig) -> TrainConfig:
    """Fit the settings to a model without 384 pixels or without positions to resize."""
    changes = {
        name: value
        for name, value in config.model_changes.items()
        if hasattr(source, name)
    }
    grid, size = source.grid, source.image_hw
    patch = (size[0] // grid.rows, size[1] // grid.columns)
    assert isinstance(config.image_size, int)
    height, width = (max(1, round(config.image_size / p)) * p for p in patch)
    return replace(
        config,
        model_changes=changes,
        image_size=height if height == width else (height, width),
    )


def _with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """Set the number of steps, with ten checkpoints."""
    warmup = config.schedule.warmup * steps // config.loop.steps
    return replace(
        config,
        schedule=replace(config.schedule, warmup=warmup),
        loop=replace(
            config.loop,
            steps=steps,
            checkpoint_every=max(1, steps // 10),
        ),
    )


def _describe_change(what: str, actual: object, published: object) -> list[str]:
    return [] if actual == published else [f"{what} {actual} instead of {published}"]


def _format_rates(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
