"""The weights that `vitral train` starts from: as asked, else the best for the data."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from vitral.errors import ConfigError, WeightsError
from vitral.recipes import summarize_dataset
from vitral.recipes.small import ENLARGED_AT_MOST, SMALLEST_SIDE
from vitral.training.distributed import broadcast_from_rank_zero
from vitral.weights import zoo
from vitral.workflows.config import read_config
from vitral.workflows.runtime import pick_device

SUPERVISED = ("", "supervised", "regression")
"""Objectives that a model without labels is a start for."""
PIXELS_ALONE = ("value_range", "mean", "std", "global_pool", "drop_path_rate")
"""Fields of `--set` that fit a model of any shape."""


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to start from; empty for random numbers."""

    weights: str
    sentence: str
    """Why, for the first line of the command; empty where the user named them."""


def choose_start(data: str, args: argparse.Namespace) -> Start:
    """Choose the weights of a command, and fetch those that nobody named.

    A run that goes on keeps its own. Nothing is fetched for a dry run.

    Raises:
        ConfigError: `--from-scratch` with weights.
    """
    if args.from_scratch and args.weights:
        raise ConfigError(
            f"`--from-scratch` starts from random numbers: leave out `--weights "
            f"{args.weights}`, or leave out `--from-scratch`."
        )
    if args.weights or args.from_scratch:
        return Start(args.weights, "")
    if args.resume and (Path(args.out) / "config.json").is_file():
        return Start(read_config(Path(args.out) / "config.json").weights, "")
    if not _takes_default(args):
        return Start("", "")
    return broadcast_from_rank_zero(lambda: _choose_default(data, args))


def _takes_default(args: argparse.Namespace) -> bool:
    """Return whether the command leaves the model to vitral."""
    names = [assignment.partition("=")[0] for assignment in args.set]
    own_model = args.model or args.twin or set(names) - set(PIXELS_ALONE)
    recipe = not args.recipe or args.recipe.endswith(".finetune")
    return recipe and not own_model and args.objective in SUPERVISED


def _choose_default(data: str, args: argparse.Namespace) -> Start:
    choice = zoo.choose_default(
        pick_device(args.device).type, may_fetch=not args.dry_run
    )
    if not choice.name:
        return Start("", choice.sentence)
    facts = summarize_dataset(data)
    if facts.kind == "clips":
        return Start("", "")
    if min(facts.height, facts.width) * ENLARGED_AT_MOST < SMALLEST_SIDE:
        return Start(
            "",
            f"no pre-trained weights: pictures of {facts.height} x {facts.width} "
            f"pixels would be enlarged more than {ENLARGED_AT_MOST} times. "
            f"`--weights {choice.name}` does it. Training from zero.",
        )
    try:
        zoo.fetch(choice.name, origin=choice.origin)
    except WeightsError as error:
        record = zoo.records()[choice.name]
        return Start("", zoo.refusal(record, f"the download failed ({error})"))
    return Start(choice.name, f"{choice.sentence}; `--from-scratch` does without")
