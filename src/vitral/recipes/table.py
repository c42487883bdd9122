"""Recipes from the rows of a table, with the docstring of hand-written ones."""

from collections.abc import Callable

import vitral.models
from vitral.workflows import TrainConfig
from vitral.workflows.cost import FLOPS_PER_MAC, PUBLISHED_SIZES, count_macs

Recipe = Callable[[str, str], TrainConfig]


def make_recipe(build: Recipe, *, summary: str, command: str, cost: str) -> Recipe:
    """Build a recipe from `build`, with what its config expects in the docstring.

    Args:
        summary: first sentence of the docstring.
    """

    def recipe(data: str, weights: str = "") -> TrainConfig:
        return build(data, weights)

    expect = build("DATA", "").expected
    recipe.__doc__ = (
        f"{summary}\n\nCommand: `{command}`\nCost: {cost}\nExpect: {expect}\n"
    )
    recipe.__module__ = getattr(build, "func", build).__module__  # of a partial
    return recipe


def describe_compute(config: TrainConfig) -> str:
    """Describe the compute of a recipe from zero on the published set that it names."""
    published = PUBLISHED_SIZES[config.data]
    images = config.loop.steps * config.batch_size
    images = images or int(published.images * (1 - config.val) * config.epochs)
    classes = published.classes if config.objective.LABELS else 0
    changes = {**config.model_changes, "num_classes": classes}
    macs = count_macs(config, vitral.models.get_config(config.model, changes))
    return (
        f"{format_scientific(FLOPS_PER_MAC * macs * images)} floating-point operations "
        f"({format_scientific(macs)} multiply-accumulates an image, "
        f"{format_scientific(images)} images); "
        "`--dry-run` gives the memory too."
    )


def format_scientific(value: int | float) -> str:
    """Return three digits: 2.24e20."""
    return f"{value:.2e}".replace("e+", "e")
