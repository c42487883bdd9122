"""The flags `--merge` and `--merge-schedule`, for every verb that runs a model.

Nothing of torch is imported here: the server's first process has none.
"""

from vitral.cli.parser import Parser
from vitral.errors import ConfigError

SCHEDULES = ("constant", "decreasing", "every_fourth")
"""Those of `vitral.models.MergeSchedule`."""
SPREAD = (
    "how they are spread over the blocks (constant); every_fourth is quicker in a graph"
)


def add_merge(parser: Parser) -> None:
    """Both flags; read them with `require_merge`."""
    parser.add_argument(
        "--merge",
        type=int,
        default=None,
        metavar="R",
        help="tokens to merge in each block, 0 for none; default: as trained",
    )
    parser.add_argument(
        "--merge-schedule", choices=SCHEDULES, default=None, help=SPREAD
    )


def require_merge(merge: int | None, schedule: str | None) -> None:
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
