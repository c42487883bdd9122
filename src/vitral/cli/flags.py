"""The protocol `finetune`, for the verbs that have it: its flags and its output."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from vitral.atomic_io import write_json
from vitral.cli.logs import warn
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, InterruptedRun
from vitral.models import Size2d
from vitral.recipes import plan_finetuning
from vitral.workflows.features import as_run
from vitral.workflows.transfer import FinetunePlan, finetune


def add_finetune_flags(parser: Parser) -> None:
    """The flags of the protocol; 0 and nothing mean as in the paper."""
    group = parser.add_argument_group("finetune")
    group.add_argument("--lrs", type=float, nargs="+", default=[], metavar="LR")
    group.add_argument("--steps", type=int, default=0, help="updates a training")
    group.add_argument("--batch-size", type=int, default=0, help="images an update")
    group.add_argument(
        "--image-size", type=int, nargs="+", default=[0], help="height and width"
    )
    group.add_argument("--seeds", type=int, default=3, help="trainings on all of train")
    group.add_argument("-j", "--workers", type=int, default=0)


def make_planner(args: argparse.Namespace) -> Callable[[str, str], FinetunePlan]:
    """(weights, data) to how they are fine-tuned, by the flags.

    Raises:
        ConfigError: a flag is out of range.
    """
    if len(args.image_size) > 2:
        raise ConfigError(
            "`--image-size` must be one number or height and width: got "
            f"{' '.join(map(str, args.image_size))}."
        )
    for name in ("steps", "batch_size"):
        if getattr(args, name) < 0:
            raise ConfigError(
                f"`--{name.replace('_', '-')}` must be above 0, or 0 for the paper's: "
                f"got {getattr(args, name)}."
            )
    first, *rest = args.image_size
    image_size: Size2d = (first, rest[0]) if rest else first

    def planned(weights: str, data: str) -> FinetunePlan:
        return plan_finetuning(
            weights,
            data,
            lrs=tuple(args.lrs),
            steps=args.steps,
            image_size=image_size,
            batch_size=args.batch_size,
            seeds=args.seeds,
            seed=args.seed,
        )

    return planned


def run_finetune(args: argparse.Namespace) -> None:
    """`vitral eval WEIGHTS DATA --protocol finetune`."""
    data = args.data
    if not data:
        opened = as_run(args.run)
        if opened is None:
            raise ConfigError(
                f"{args.run} is not a run and has no data of its own: name the data "
                "set to fine-tune on."
            )
        data = opened.config.data
    planned = make_planner(args)(args.run, data)
    stems = (Path(args.run).stem, Path(data).stem)
    out = Path(args.out or Path("runs") / f"finetune-{'-'.join(stems)}")
    warn(f"finetune: runs go to {out}")
    try:
        found = finetune(planned, out, workers=args.workers, device=args.device)
    except InterruptedRun as error:
        raise InterruptedRun(
            f"Stopped; what was trained is in {out}. The same command goes on.",
            error.exit_code,
        ) from error
    write_json(out / "finetune.json", found.to_dict())
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    for line in found.lines():
        print(line)
    print(f"files: {out / 'finetune.json'}")
    print(f"next: vitral predict {out / found.finals[0].folder} IMAGES...")


SCHEDULES = ("constant", "decreasing", "every_fourth")
"""Those of `vitral.models.MergeSchedule`."""
SCHEDULE_HELP = (
    "how they are spread over the blocks (constant); every_fourth is quicker in a graph"
)


def add_merge_flags(parser: Parser) -> None:
    """Both flags; read them with `require_merge`."""
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
