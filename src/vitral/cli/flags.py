"""Flags that several verbs share, declared without torch, and their checks."""

import argparse

from vitral.cli.parser import Parser
from vitral.errors import ConfigError

SCHEDULES = ("constant", "decreasing", "every_fourth")
"""Those of `vitral.models.MergeSchedule`."""
SCHEDULE_HELP = (
    "how they are spread over the blocks (constant); every_fourth is quicker in a graph"
)
PROBES = ("fewshot", "linear", "knn")
"""Those of `vitral.workflows.features.PROTOCOLS`."""


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto")


def add_finetune_flags(parser: Parser) -> None:
    """Add the flags of the protocol `finetune`; 0 and nothing mean as in the paper."""
    group = parser.add_argument_group("finetune")
    group.add_argument(
        "--lrs",
        type=float,
        nargs="+",
        default=[],
        metavar="LR",
        help="learning rates to try; default: the paper's",
    )
    group.add_argument("--steps", type=int, default=0, help="updates a training")
    group.add_argument(
        "--batch-size", "-b", type=int, default=0, help="images an update"
    )
    group.add_argument(
        "--image-size",
        "--img-size",
        type=int,
        nargs="+",
        default=[0],
        help="height and width",
    )
    group.add_argument("--seeds", type=int, default=3, help="trainings on all of train")
    group.add_argument(
        "--workers",
        "-j",
        type=int,
        default=0,
        help="processes that decode images",
    )


def add_merge_flags(parser: Parser) -> None:
    """Add both flags of token merging; check them with `validate_merge`."""
    parser.add_argument(
        "--merge",
        type=int,
        default=None,
        metavar="R",
        help="tokens to merge in each block, 0 for none; default: as trained",
    )
    parser.add_argument(
        "--merge-schedule", choices=SCHEDULES, default=None, help=SCHEDULE_HELP
    )


def validate_merge(merge: int | None, schedule: str | None) -> None:
    """Refuse what can be refused before a model is read.

    Raises:
        ConfigError: the rate is negative, or a schedule comes without a rate.
    """
    if merge is not None and merge < 0:
        raise ConfigError(
            f"`--merge` must be at least 0, the tokens merged in each block: got "
            f"{merge}."
        )
    if schedule is not None and merge is None:
        raise ConfigError(
            f"`--merge-schedule {schedule}` says how merged tokens are spread over the "
            "blocks, and not how many: add `--merge R`, or leave it out."
        )
