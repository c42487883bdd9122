"""A recipe for each row of a table, with the docstring that written ones have."""

from collections.abc import Callable

import vitral.models
from vitral.workflows import TrainConfig
from vitral.workflows.cost import FLOPS_PER_MAC, PUBLISHED_SIZES, count_macs

Recipe = Callable[[str, str], TrainConfig]


def make_recipe(build: Recipe, *, summary: str, command: str, cost: str) -> Recipe:
    """`build` as a recipe of its own; what to expect is in the config that it builds.

    Args:
        summary: the sentence that opens the docstring.
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
    """The compute of a recipe from zero on the published set that it names."""
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


def format_scientific(number: int | float) -> str:
    """Three digits: 2.24e20."""
    return f"{number:.2e}".replace("e+", "e")
