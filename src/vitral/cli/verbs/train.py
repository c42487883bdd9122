"""`vitral train DATA --out RUN`: train, fine-tune or probe."""

import argparse
import shlex
from pathlib import Path

from vitral.cli.flags import add_device_flag
from vitral.cli.logs import install_handler, say, set_log_folder
from vitral.cli.parser import Parser
from vitral.errors import ConfigError

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

    args, rest = parser.parse_known(argv, config_flags(argv))
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
    parser.require_read("", ["--dry-run"] if args.dry_run else [])
    if not args.out and not args.dry_run:
        raise ConfigError("`vitral train` needs `--out RUN`, the folder to write to.")
    if args.data_changed and not args.resume:
        raise ConfigError(
            "`--data-changed` says how a run goes on and needs `--resume`; a new run "
            "takes the files as they are."
        )
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
        common="--out --recipe --weights --from-scratch --model --epochs --batch-size "
        "--image-size --lr --linear-probe --resume --dry-run",
        examples=(
            "photos --out runs/photos",
            "photos --weights vit_s16_in21k_in1k --epochs 5 --out runs/tuned",
            "imagenet --recipe vit.imagenet.b16 --dry-run",
        ),
    )
    parser.add("data", "", "images or clips; see above")
    parser.add("--out", "", "the run's folder")
    _add_start_flags(parser)
    _add_machine_flags(parser)
    parser.add(
        "--dry-run", False, "print images, compute, memory and time, train nothing"
    )
    parser.add(
        "--devices N",
        1,
        "of a dry run: how many share a batch",
        type=positive_int,
        modes="--dry-run",
    )
    parser.add(
        "--flops-per-second F",
        0.0,
        "of a dry run: operations of each device; 0 measures this CPU",
        type=positive_float,
        modes="--dry-run",
    )
    parser.mention("--epochs", float, "passes over the training images")
    parser.mention("--batch-size -b", int, "images an update")
    parser.mention(
        "--image-size --img-size", [int], "pixels, one number or height and width"
    )
    parser.mention("--lr", float, "the highest learning rate")
    return parser


def _add_start_flags(parser: Parser) -> None:
    parser.add(
        "--recipe NAME",
        "",
        "settings to begin with; without it vitral picks one: `--recipe` alone "
        "lists them",
        nargs="?",
    )
    parser.add(
        "--model NAME",
        "",
        "a size by name, such as vit_s16; `vitral models` lists them",
    )
    parser.add(
        "--weights NAME",
        "",
        "where to start: a name such as dinov2_s14 (`vitral weights list`), a run, a "
        "model folder or a file; without it the best that is here or can be fetched",
    )
    parser.add("--from-scratch", False, "start from random numbers")
    parser.add(
        "--objective NAME",
        "",
        "what is learned, such as supervised, distill, mae, masked_patch or "
        "regression; `--objective NAME --help-all` lists its flags",
    )
    parser.add(
        "--task NAME",
        "",
        "what is asked of a picture, such as classify or regression; without it the "
        "data decides",
    )
    parser.add(
        "--channels N",
        0,
        "channels of the model's input: 1 for grey, or all of a file of several "
        "bands; 0: those of the model, three",
    )
    parser.add("--twin", False, "the recipe with a small model, for 60 updates")
    parser.add("--linear-probe", False, "keep all blocks, train the head")
    parser.add("--drop-path RATE", float, "stochastic depth")
    parser.add(
        "--set FIELD=VALUE",
        [str],
        "fields of the model, such as patch_size=8 or global_pool=avg; of a video "
        "model num_frames=16, sampling.kind=dense; of pixels value_range=[0,4095]",
        action="extend",
    )


def _add_machine_flags(parser: Parser) -> None:
    parser.add(
        "--workers -j",
        0,
        "processes that decode images; any number gives the same batches",
    )
    add_device_flag(parser)
    parser.add("--resume", False, "go on from the newest checkpoint of RUN")
    parser.add(
        "--data-changed",
        False,
        "with --resume: go on although files changed since the run began",
    )
    parser.add(
        "--shard",
        "none",
        "fsdp: under torchrun, divide the model among the ranks",
        choices=("none", "fsdp"),
    )
    parser.add(
        "--checkpoint-activations", False, "less memory, more time, the same numbers"
    )
    parser.add(
        "--rank-timeout SECONDS",
        RANK_TIMEOUT,
        "after which a silent rank counts as gone",
    )


def positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: got {text}")
    return number


def positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0: got {text}")
    return number


def _print_cost(args: argparse.Namespace, rest: list[str], argv: list[str]) -> None:
    from vitral.cli.dry_run import cost_lines, remove_plan_flags
    from vitral.cli.train_config import resolve_config

    resolved = resolve_config(args.data, args, rest)
    if resolved.start:
        print(resolved.start)
    print(f"recipe: {resolved.recipe}, {resolved.reason}")
    for line in cost_lines(resolved.config, args.devices, args.flops_per_second):
        print(line)
    print(f"command: vitral train {shlex.join(remove_plan_flags(argv))}")


def _train(args: argparse.Namespace, rest: list[str]) -> None:
    from vitral.cli.output import summary_lines
    from vitral.cli.train_config import resolve_config
    from vitral.training.activation_checkpoint import return_freed_memory
    from vitral.training.distributed import get_rank
    from vitral.workflows.dataset import describe_labels, open_data, run_input_kind
    from vitral.workflows.resolve_task import resume_settings
    from vitral.workflows.runtime import Runtime
    from vitral.workflows.session import run_session
    from vitral.workflows.train import train

    resolved = resolve_config(args.data, args, rest)
    out = Path(args.out)
    config = resolved.config
    config = resume_settings(config, out) if args.resume else config
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
            if resolved.start:
                say(resolved.start)
            dataset = open_data(config, run_input_kind(config))
            say(f"task: {describe_labels(dataset, config.objective, config.data)}")
            resumes = args.resume and (out / "config.json").is_file()
            reason = f"settings of the run in {out}" if resumes else resolved.reason
            say(f"recipe {resolved.recipe}: {reason}")
        finished = train(
            config,
            out,
            runtime=runtime,
            resume=args.resume,
            data_changed=args.data_changed,
        )
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
