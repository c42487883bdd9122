"""`vitral train DATA --out RUN`: train, fine-tune or probe."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.config_flags import ALIASES
from vitral.cli.flags import add_device_flag
from vitral.cli.logs import install_handler, say, set_log_folder
from vitral.cli.parser import Parser
from vitral.errors import ConfigError

if TYPE_CHECKING:
    from vitral.cli.train_config import ResolvedConfig

OBJECTIVES = ("distill", "mae", "masked_patch", "supervised")
"""Those of `vitral.objectives.OBJECTIVES`."""
RANK_TIMEOUT = 1800.0
"""That of `vitral.training.distributed.TIMEOUT`."""


def run(argv: list[str]) -> None:
    """Parse the flags on top of a recipe, train, and print where the result is."""
    parser = make_parser()
    help_all = parser.handle_help(argv)
    if not argv:
        print(parser.format_help())
        raise SystemExit(2)
    from vitral.cli.train_config import config_flags, format_all_flags

    args, rest = parser.parse_known(argv, config_flags())
    if args.recipe is None:
        _list_recipes()
        return
    if help_all:
        print(format_all_flags(parser, args.data, args, rest))
        return
    if not args.data:
        raise ConfigError(
            "`vitral train` needs the data, as in `vitral train DATA --out RUN`: got "
            f"`{' '.join(argv)}`."
        )
    if not args.out and not args.dry_run:
        raise ConfigError("`vitral train` needs `--out RUN`, the folder to write to.")
    if args.dry_run:
        _print_cost(args, rest, argv)
        return
    from vitral.training.distributed import is_reported_elsewhere, process_group
    from vitral.workflows.runtime import pick_device

    try:
        with process_group(pick_device(args.device), args.rank_timeout):
            _train(args, rest)
    except Exception as error:
        if is_reported_elsewhere(error):  # another rank here says it
            raise SystemExit(getattr(error, "exit_code", 1)) from error
        raise


def make_parser() -> Parser:
    """Declare the flags that are no field of the config."""
    parser = Parser(
        "train",
        "Train, fine-tune or probe. DATA is a folder with one folder per class, a "
        ".csv or .jsonl table with the columns path,label[,split,group,weight], or a "
        "name such as digits or cifar10. Clips for a video model are files, .npz "
        "arrays or folders of frames.",
        usage="DATA --out RUN",
        common=(
            *("--out", "--recipe", "--weights", "--model", "--epochs", "--batch-size"),
            *("--image-size", "--lr", "--linear-probe", "--resume", "--dry-run"),
        ),
        examples=(
            "vitral train photos --out runs/photos",
            "vitral train photos --weights W.safetensors --epochs 5 --out runs/tuned",
            "vitral train imagenet --recipe vit.imagenet.b16 --dry-run",
        ),
    )
    parser.add_argument(
        "data", nargs="?", default="", help="images or clips; see above"
    )
    parser.add_argument("--out", default="", help="the run's folder")
    add_start_flags(parser)
    _add_machine_flags(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print images, compute, memory and time, train nothing",
    )
    parser.add_argument(
        "--devices",
        type=positive_int,
        default=1,
        metavar="N",
        help="of a dry run: how many share a batch",
    )
    parser.add_argument(
        "--flops-per-second",
        type=positive_float,
        default=0.0,
        metavar="F",
        help="of a dry run: operations of each device; 0 measures this CPU",
    )
    parser.mention("--epochs", type=float, help="passes over the training images")
    parser.mention(
        "--batch-size", *ALIASES["batch_size"], type=int, help="images an update"
    )
    parser.mention(
        "--image-size",
        *ALIASES["image_size"],
        type=int,
        nargs="+",
        help="pixels, one number or height and width",
    )
    parser.mention("--lr", type=float, help="the highest learning rate")
    return parser


def add_start_flags(parser: Parser) -> None:
    """Add what a run starts from: recipe, weights, model, objective."""
    parser.add_argument(
        "--recipe",
        default="",
        nargs="?",
        metavar="NAME",
        help="settings to begin with; without it vitral picks one: `--recipe` alone "
        "lists them",
    )
    parser.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="a size by name, such as vit_s16; `vitral models` lists them",
    )
    parser.add_argument(
        "--weights",
        default="",
        metavar="FILE",
        help="a model folder, a run or a .safetensors file",
    )
    parser.add_argument(
        "--objective",
        default="",
        choices=OBJECTIVES,
        help="what is learned; `--objective NAME --help-all` lists its flags",
    )
    parser.add_argument(
        "--twin",
        action="store_true",
        help="the recipe with a small model, for 60 updates",
    )
    parser.add_argument(
        "--linear-probe", action="store_true", help="keep all blocks, train the head"
    )
    parser.add_argument(
        "--drop-path", type=float, metavar="RATE", help="stochastic depth"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of the model, such as patch_size=8 or global_pool=avg; of a video "
        "model num_frames=16, sampling.kind=dense",
    )


def _add_machine_flags(parser: Parser) -> None:
    parser.add_argument(
        "--workers",
        "-j",
        type=int,
        default=0,
        help="processes that decode images; any number gives the same batches",
    )
    add_device_flag(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint of RUN",
    )
    parser.add_argument(
        "--shard",
        choices=("none", "fsdp"),
        default="none",
        help="fsdp: under torchrun, divide the model among the ranks",
    )
    parser.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="less memory, more time, the same numbers",
    )
    parser.add_argument(
        "--rank-timeout",
        type=float,
        default=RANK_TIMEOUT,
        metavar="SECONDS",
        help="after which a silent rank counts as gone",
    )


def positive_int(text: str) -> int:
    """Parse a whole number of devices."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: got {text}")
    return number


def positive_float(text: str) -> float:
    """Parse operations a second."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0: got {text}")
    return number


def _resolve(args: argparse.Namespace, rest: list[str]) -> "ResolvedConfig":
    from vitral.cli.train_config import resolve_config

    return resolve_config(args.data, args, rest)


def _print_cost(args: argparse.Namespace, rest: list[str], argv: list[str]) -> None:
    from vitral.cli.dry_run import cost_lines, remove_plan_flags

    resolved = _resolve(args, rest)
    print(f"recipe: {resolved.recipe}, {resolved.reason}")
    for line in cost_lines(resolved.config, args.devices, args.flops_per_second):
        print(line)
    print(f"command: vitral train {shlex.join(remove_plan_flags(argv))}")


def _train(args: argparse.Namespace, rest: list[str]) -> None:
    from vitral.cli.output import summary_lines
    from vitral.training.activation_checkpoint import return_freed_memory
    from vitral.training.distributed import get_rank
    from vitral.workflows.runtime import Runtime
    from vitral.workflows.session import run_session
    from vitral.workflows.train import train

    resolved = _resolve(args, rest)
    config, out = resolved.config, Path(args.out)
    runtime = Runtime(
        device=args.device,
        workers=args.workers,
        shard=args.shard,
        checkpoint_activations=args.checkpoint_activations,
        rank_timeout=args.rank_timeout,
    )
    with run_session(config, out, runtime, args.resume):
        if args.checkpoint_activations:
            return_freed_memory()
        if get_rank() == 0:
            set_log_folder(out)
            install_handler(say)
            say(f"recipe {resolved.recipe}: {resolved.reason}")
        finished = train(config, out, runtime=runtime, resume=args.resume)
        if get_rank() == 0:
            for line in summary_lines(finished):
                say(line)


def _list_recipes() -> None:
    """Print every recipe, those of one group in a line."""
    import vitral.recipes

    for group, names in vitral.recipes.group_names().items():
        print(f"{group:20} {' '.join(names)}")
    print("A name is both words with a dot between, as in vit.jft.b16.")
    print("next: vitral train DATA --recipe NAME --dry-run")
