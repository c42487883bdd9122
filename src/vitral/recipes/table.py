"""Parts of published trainings: their loop, and recipes from the rows of a table."""

from collections.abc import Callable

import vitral.models
from vitral.training import LoopConfig
from vitral.workflows import TrainConfig
from vitral.workflows.cost import FLOPS_PER_MAC, PUBLISHED_SIZES, count_macs

Recipe = Callable[[str, str], TrainConfig]
LONG_LOOP = LoopConfig(precision="bf16", eval_every=5_000, checkpoint_every=5_000)


def make_recipe(
    build: Recipe, summary: str, *, data: str = "imagenet", flags: str = ""
) -> Recipe:
    """Build a recipe from `build`, with the docstring of a hand-written one.

    Args:
        summary: first sentence of the docstring.
        flags: of the command, between blanks.
    """

    def recipe(data: str, weights: str = "") -> TrainConfig:
        return build(data, weights)

    config = build(data, "")
    name = config.recipe
    recipe.__doc__ = (
        f"{summary}\n\n"
        f"Command: `vitral train {data} --recipe {name} {flags}--out runs/{name}`\n"
        f"Cost: {describe_compute(config)}\nExpect: {config.expected}\n"
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
