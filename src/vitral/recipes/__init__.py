"""Recipes: one file per paper or purpose, one function per experiment.

A recipe is a function of (data, weights) that returns a complete TrainConfig; a variant
calls its parent and changes fields. `choose_recipe` picks one from the data.
"""

from itertools import groupby
from typing import NamedTuple

from vitral.data import input_kind
from vitral.errors import ConfigError
from vitral.models import get_config
from vitral.recipes import (
    augreg,
    bit,
    clips,
    deit,
    elpv,
    mae,
    plain_vit,
    scaling,
    small,
    vit,
    vit_pretraining,
)
from vitral.recipes.dataset_facts import DatasetSummary, summarize_dataset
from vitral.recipes.planning import plan_finetuning
from vitral.recipes.table import Recipe
from vitral.recipes.twin import twin
from vitral.tasks import get_task
from vitral.validation import nearest_names

RECIPES: dict[str, Recipe] = {
    "small.scratch": small.scratch,
    "small.finetune": small.finetune,
    "vit.finetune": vit.finetune,
    **vit_pretraining.RECIPES,
    **augreg.RECIPES,
    **plain_vit.RECIPES,
    **scaling.RECIPES,
    **deit.RECIPES,
    **mae.RECIPES,
    **bit.RECIPES,
    "elpv.finetune": elpv.finetune,
    "clips.scratch": clips.scratch,
    "clips.finetune": clips.finetune,
}
"""Every recipe by its name: the paper, the data if it matters, then the model."""


class RecipeChoice(NamedTuple):
    """A recipe's name and the reason for it."""

    name: str
    reason: str


def get_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        ConfigError: an unknown name; the message has the nearest ones.
    """
    if name in RECIPES:
        return RECIPES[name]
    nearest = " and ".join(nearest_names(name, RECIPES, cutoff=0.0))
    raise ConfigError(
        f"Unknown recipe `{name}`. The nearest names are {nearest}; "
        "`vitral train --recipe` lists all."
    )


def group_names() -> dict[str, list[str]]:
    """Group the recipes by their names up to the last dot: `vit.jft` has `b16`."""
    parts = [name.rpartition(".") for name in RECIPES]
    return {
        group: [last for _, _, last in names]
        for group, names in groupby(parts, key=lambda part: part[0])
    }


def choose_recipe(data: str, weights: str, model: str = "") -> RecipeChoice:
    """Choose a recipe for these images or clips, with the reason in a sentence.

    Args:
        model: requested model; a video model needs clips.
    """
    facts = summarize_dataset(
        data, input_kind(get_config(model).input_shape) if model else "auto"
    )
    labels = get_task(facts.task).describe(facts.labels)
    images = f"{facts.num_images} {facts.kind} of {labels}"
    if facts.kind == "clips" and weights:
        name, why = "clips.finetune", " and weights to start from"
    elif facts.kind == "clips":
        name, why = "clips.scratch", " and no weights: train from zero"
    elif not weights:
        name, why = "small.scratch", " and no weights to start from: train from zero"
    elif facts.num_images < small.FINETUNE_UP_TO:
        name, why = "small.finetune", ": few enough for a short fine-tune with AdamW"
    else:
        name, why = "vit.finetune", ": enough for the paper's own fine-tune"
    return RecipeChoice(name, f"{images}{why}")


__all__ = [
    "RECIPES",
    "DatasetSummary",
    "Recipe",
    "RecipeChoice",
    "augreg",
    "bit",
    "choose_recipe",
    "clips",
    "deit",
    "elpv",
    "get_recipe",
    "group_names",
    "mae",
    "plain_vit",
    "plan_finetuning",
    "scaling",
    "small",
    "summarize_dataset",
    "twin",
    "vit",
    "vit_pretraining",
]
