"""Flags that several verbs share, declared without torch, and their checks."""

from collections.abc import Sequence
from functools import partial

from vitral.cli.parser import Parser
from vitral.errors import ConfigError

SCHEDULES = ("constant", "decreasing", "every_fourth")
"""Those of `vitral.models.MergeSchedule`."""
SCHEDULE_HELP = (
    "how they are spread over the blocks (constant); every_fourth is quicker in a graph"
)
PROBES = ("fewshot", "linear", "knn")
"""Those of `vitral.workflows.features.PROTOCOLS`."""


def add_device_flag(parser: Parser) -> None:
    """Add `--device`."""
    parser.add("--device", "auto", "cpu, cuda, mps or auto")


def add_protocol_flags(parser: Parser, *, probes_resize: bool) -> None:
    """Add the flags of probes, and of `finetune`, whose 0 means as in the paper.

    Args:
        probes_resize: probes take an image size too, of the one model that they see.
    """
    learning = " ".join((*PROBES, "finetune"))
    sized = learning if probes_resize else "finetune"
    parser.add("--k", 20, "neighbours, for knn", modes="knn")
    parser.add("--seed", 0, "of draws and splits", modes="fewshot linear finetune")
    parser.add("--cache-dir", "", "where features are kept", modes=" ".join(PROBES))
    parser.add(
        "--image-size --img-size",
        [0],
        "height and width; default: the weights' own, or less for smaller images",
        modes=sized,
    )
    parser.add("--workers -j", 0, "processes that decode images", modes=learning)
    add = partial(parser.add, group="finetune", modes="finetune")
    add("--lrs LR", [float], "learning rates to try; default: the paper's")
    add("--steps", 0, "updates a training")
    add("--batch-size -b", 0, "images an update")
    add("--seeds", 3, "trainings on all of train")


def read_image_size(numbers: Sequence[int]) -> int | tuple[int, int] | None:
    """Return the pixels of `--image-size`; None where it was not given.

    Raises:
        ConfigError: it is more than two numbers.
    """
    if not any(numbers):
        return None
    if len(numbers) > 2:
        raise ConfigError(
            f"`--image-size` is one number or HEIGHT WIDTH: got {len(numbers)} numbers."
        )
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def add_merge_flags(parser: Parser, modes: str = "") -> None:
    """Add both flags of token merging; check them with `validate_merge`.

    Args:
        modes: those of the verb that read them, as `Parser.add` takes them.
    """
    parser.add(
        "--merge R",
        int,
        "tokens to merge in each block, 0 for none; default: as trained",
        modes=modes,
    )
    parser.add("--merge-schedule", str, SCHEDULE_HELP, choices=SCHEDULES, modes=modes)


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
