"""`vitral train DATA --out RUN`: train, fine-tune or probe."""

import argparse
import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import tyro

import vitral.models
import vitral.recipes
import vitral.weights
from vitral.cli.dry_run import (
    cost_lines,
    positive_float,
    positive_int,
    remove_plan_flags,
)
from vitral.cli.logs import install_handler, say, set_log_folder
from vitral.cli.output import summary_lines
from vitral.errors import ConfigError
from vitral.objectives import OBJECTIVES
from vitral.training.activation_checkpoint import return_freed_memory
from vitral.training.distributed import (
    TIMEOUT,
    get_rank,
    is_reported_elsewhere,
    process_group,
)
from vitral.workflows import TrainConfig
from vitral.workflows.runtime import Runtime, pick_device
from vitral.workflows.session import run_session
from vitral.workflows.train import train

FLAG_ALIASES = {"--img-size": "--image-size", "-b": "--batch-size"}
"""timm's flags that are spelled differently here."""
JSON_LITERALS = {"True": "true", "False": "false", "None": "null"}
SAMPLING_PREFIX = "sampling."
"""Before the fields of Sampling, which are not the model's, in `--set`."""
SHORT_FLAG = re.compile(r"(-[bj])=?(\d+)")


def run(argv: list[str]) -> None:
    """Parse the flags on top of a recipe, train, and say where the result is."""
    data, flags = split_positional(argv)
    known, rest = make_train_parser().parse_known_args(flags)
    if known.recipe is None:
        _list_recipes()
        return
    if known.help or not argv:
        show_help(known.recipe, known.objective)
        raise SystemExit(0 if known.help else 2)
    if not data:
        raise ConfigError(
            f"`vitral train` takes the data first, as in `vitral train DATA --out RUN`:"
            f" got `{argv[0]}`."
        )
    if not known.out and not known.dry_run:
        raise ConfigError("`vitral train` needs `--out RUN`, the folder to write to.")
    if known.dry_run:
        config, recipe, reason = resolve_config(data, known, rest)
        print(f"recipe: {recipe}, {reason}")
        for line in cost_lines(config, known.devices, known.flops_per_second):
            print(line)
        print(f"command: vitral train {shlex.join(remove_plan_flags(argv))}")
        return
    try:
        with process_group(pick_device(known.device), known.rank_timeout):
            _train(data, known, rest)
    except Exception as error:
        if is_reported_elsewhere(error):  # another rank here says it
            raise SystemExit(getattr(error, "exit_code", 1)) from error
        raise


def _train(data: str, args: argparse.Namespace, rest: list[str]) -> None:
    config, recipe, reason = resolve_config(data, args, rest)
    out = Path(args.out)
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
            say(f"recipe {recipe}: {reason}")
        finished = train(config, out, runtime=runtime, resume=args.resume)
        if get_rank() == 0:
            for line in summary_lines(finished):
                say(line)


class ResolvedConfig(NamedTuple):
    """Settings, the recipe that they began as, and why that one."""

    config: TrainConfig
    recipe: str
    reason: str


def resolve_config(
    data: str, args: argparse.Namespace, rest: list[str]
) -> ResolvedConfig:
    """The recipe of a command with its flags on top.

    Args:
        args: what `first_flags` has read.
        rest: the other flags.
    """
    recipe, reason = args.recipe, "asked for"
    if not recipe:
        recipe, reason = vitral.recipes.choose_recipe(data, args.weights, args.model)
    config = vitral.recipes.get_recipe(recipe)(data, args.weights)
    config = _with_model_changes(config, args)
    config = _with_objective(config, args.objective)
    if args.twin:
        config = vitral.recipes.twin(config)
    config = apply_flags(config, rest)
    return ResolvedConfig(config, recipe, reason)


def apply_flags(config: TrainConfig, argv: list[str]) -> TrainConfig:
    """`config` with flags on top; an unknown flag prints the nearest and exits 2."""
    return tyro.cli(
        TrainConfig,
        default=config,
        args=argv,
        prog="vitral train DATA --out RUN",
        description="Flags on top of the recipe; the defaults are without one.",
        config=(tyro.conf.OmitArgPrefixes,),
    )


class _SplitArgv(NamedTuple):
    data: str
    flags: list[str]


def split_positional(argv: list[str]) -> _SplitArgv:
    """The data set, and the flags in one spelling: --kebab-case, long, apart."""
    flags: list[str] = []
    for word in argv:
        short = SHORT_FLAG.fullmatch(word)
        name, equals, value = word.partition("=")
        if short:
            flags += [FLAG_ALIASES.get(short[1], short[1]), short[2]]
        elif word.startswith("-"):
            name = name.replace("_", "-")
            flags.append(FLAG_ALIASES.get(name, name) + equals + value)
        else:
            flags.append(word)
    if flags and not flags[0].startswith("-"):
        return _SplitArgv(flags[0], flags[1:])
    return _SplitArgv("", flags)


def make_train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", default="")
    parser.add_argument("--recipe", default="", nargs="?")
    parser.add_argument("--model", default="")
    parser.add_argument("--weights", default="")
    parser.add_argument("-j", "--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--objective", default="", choices=sorted(OBJECTIVES))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--shard", choices=("none", "fsdp"), default="none")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--rank-timeout", type=float, default=TIMEOUT)
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--devices", type=positive_int, default=1)
    parser.add_argument("--flops-per-second", type=positive_float, default=0.0)
    parser.add_argument("--linear-probe", action="store_true")
    parser.add_argument("--drop-path", type=float)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE"
    )
    parser.add_argument("-h", "--help", action="store_true")
    return parser


def _with_model_changes(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    changes: dict[str, Any] = dict(config.model_changes)
    sampling: dict[str, Any] = {}
    if args.model:
        # The size that is asked for by name comes before the recipe's own.
        sizes = {*vitral.models.SIZES["b"], "patch_size"}
        changes = {name: v for name, v in changes.items() if name not in sizes}
    if args.drop_path is not None:
        changes["drop_path_rate"] = args.drop_path
    for word in args.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(
                f"`--set {word}` must be FIELD=VALUE, such as `--set reg_tokens=4`."
            )
        given = _parse_value(value)
        if isinstance(given, list | dict):
            raise ConfigError(
                f"`--set {word}` must be one number, true, false, null or a word."
            )
        of_sampling = name.removeprefix(SAMPLING_PREFIX)
        if of_sampling != name:
            sampling[of_sampling] = given
        else:
            changes[name] = given
    fields: dict[str, Any] = {"model_changes": changes}
    if sampling:
        before = config.preprocess_changes
        sampling = {**before.get("sampling", {}), **sampling}
        fields["preprocess_changes"] = {**before, "sampling": sampling}
    if args.model:
        fields["model"] = args.model
    if args.linear_probe:
        if not config.weights:
            raise ConfigError(
                "`--linear-probe` keeps the weights of a pre-trained model: give them "
                "with `--weights FILE`."
            )
        fields["freeze"] = vitral.weights.read(config.weights).config.num_blocks
    return dataclasses.replace(config, **fields)


def _with_objective(config: TrainConfig, name: str) -> TrainConfig:
    """The recipe for another objective, whose evaluation may give no accuracy."""
    if name in ("", config.objective.NAME):
        return config
    kind = OBJECTIVES[name]
    loop = config.loop
    if not kind.LABELS and loop.monitor == "accuracy":
        loop = dataclasses.replace(loop, monitor="loss")
    return dataclasses.replace(config, objective=kind(), loop=loop)


def _parse_value(text: str) -> Any:
    """A number, a truth value or nothing; any other text is a word."""
    try:
        return json.loads(JSON_LITERALS.get(text, text))
    except ValueError:
        return text


def _list_recipes() -> None:
    """Every recipe, those of one kind in a line."""
    for group, names in vitral.recipes.group_names().items():
        print(f"{group:20} {' '.join(names)}")
    print("A name is both words with a dot between, as in vit.jft.b16.")
    print("next: vitral train DATA --recipe NAME --dry-run")


def show_help(recipe: str, objective: str) -> None:
    """Print every flag; leaves with exit code 0."""
    print(
        "usage: vitral train DATA --out RUN [--recipe NAME] [--weights FILE] "
        "[--resume]\n\n"
        "DATA is a folder with one folder per class, a .csv or .jsonl table with the\n"
        "columns path,label[,split,group,weight], or a name such as digits or "
        "cifar10.\n"
        "Clips for a video model are files, .npz arrays or folders of frames.\n\n"
        "  --model NAME       a size by name, such as vit_s16; `vitral models` lists "
        "them\n"
        "  --recipe NAME      settings to begin with; without it vitral picks one: "
        "`--recipe` alone lists them\n"
        "  --dry-run          print images, compute, memory and time, train nothing\n"
        "  --devices N        of a dry run: how many share a batch\n"
        "  --flops-per-second F  of a dry run: operations of each device\n"
        "  --twin             the recipe with a small model, for 60 updates\n"
        "  --weights FILE     a model folder, a run or a .safetensors file\n"
        "  --resume           go on from the newest checkpoint of RUN\n"
        "  -j, --workers N    processes that decode images; any number gives the same "
        "batches\n"
        "  --device NAME      cpu, cuda, mps or auto\n"
        "  --shard fsdp       under torchrun, divide the model among the ranks\n"
        "  --checkpoint-activations  less memory, more time, the same numbers\n"
        "  --rank-timeout SECONDS    after which a silent rank counts as gone (1800)\n"
        "  --freeze N         keep the stem and the first N blocks; --cache computes "
        "their output once\n"
        "  --linear-probe     keep all blocks, train the head\n"
        "  --objective NAME   what is learned: "
        f"{', '.join(sorted(OBJECTIVES))}; its flags are\n"
        "                     shown by --objective NAME --help\n"
        "  --drop-path RATE   stochastic depth\n"
        "  --set FIELD=VALUE  fields of the model, such as patch_size=8 or "
        "global_pool=avg;\n"
        "                     of a video model num_frames=16, sampling.kind=dense\n"
    )
    example = TrainConfig(data="DATA", model="vit_s16", recipe=recipe)
    apply_flags(_with_objective(example, objective), ["--help"])
