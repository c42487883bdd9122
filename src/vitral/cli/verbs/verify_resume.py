"""`vitral verify-resume RECIPE [DATA]`: check that a killed run resumes exactly."""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.child_process import start_python
from vitral.cli.parser import Parser
from vitral.cli.verbs import train
from vitral.errors import ConfigError, GateError

if TYPE_CHECKING:
    from vitral.workflows import TrainConfig
    from vitral.workflows.resume_check import StartCommand, TrainProcess


def run(argv: list[str]) -> None:
    """Train unbroken, train with kills, compare, and print the result."""
    parser = make_parser()
    help_all = parser.handle_help(argv)
    import vitral.recipes
    from vitral.cli.train_config import config_flags, resolve_config
    from vitral.workflows.resume_check import run_reference, run_with_kills

    train_parser, fields = train.make_parser(), config_flags(argv)
    args, rest = parser.parse_known(argv, {**fields, **train_parser.flags()})
    if help_all:
        _print_all_flags(parser, args, rest)
        return
    if not args.recipe:
        parser.error("the name of a recipe comes first.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "`vitral verify-resume` kills one process: start it without torchrun."
        )
    for name, least in (("steps", 2), ("kills", 1)):
        value = getattr(args, name)
        if value < least:
            raise ConfigError(f"`--{name}` must be at least {least}: got {value}.")
    config = vitral.recipes.get_recipe(args.recipe)(args.data, args.weights)
    command = ["train", args.data, "--recipe", args.recipe, *rest]
    if args.weights:
        command += ["--weights", args.weights]
    command += _short_run_flags(config, args.steps, rest)
    command += ["--seed", str(args.seed)]
    # Leave with exit code 2 and a sentence where `vitral train` would.
    given, words = train_parser.parse_known(command[1:], fields)
    train_parser.refuse_given(
        "dry_run devices flops_per_second resume",
        "does nothing in `vitral verify-resume`: leave it out.",
    )
    resolve_config(args.data, given, words)
    with _OutputFolder(args.out) as out:
        start = make_starter(["-m", "vitral", *command])
        print(f"unbroken: vitral {' '.join(command)}", flush=True)
        pace = run_reference(start, out / "unbroken", args.steps)
        print(f"now with {args.kills} kills, and --resume", flush=True)
        result = run_with_kills(
            start,
            out / "killed",
            out / "unbroken",
            pace,
            steps=args.steps,
            kills=args.kills,
            seed=args.seed,
        )
        for line in result.lines():
            print(line)
        result.require_equal(out)
        same = result.diff
        print(
            f"equal bit for bit after {len(result.kills)} kills: {same.tensors} "
            f"tensors of the last checkpoint and of model/, {same.lines} lines of "
            f"metrics.jsonl without their times, the order of the examples, and "
            f"{same.files} files of split and answers"
        )
        if args.out:
            print(f"files: {out}")


def make_starter(command: list[str]) -> "StartCommand":
    """Return what starts Python with a command and `--out FOLDER --resume`.

    It prints to files.
    """
    from vitral.workflows.resume_check import errors_file

    def start(out: Path) -> "TrainProcess":
        with errors_file(out).open("ab") as errors:
            return start_python(
                [*command, "--out", str(out), "--resume"],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    return start


def _print_all_flags(parser: Parser, args: argparse.Namespace, rest: list[str]) -> None:
    from vitral.cli.train_config import config_flags, format_all_flags

    train_parser = train.make_parser()
    if args.recipe:
        rest = [*rest, "--recipe", args.recipe, "--weights", args.weights]
    train_args, rest = train_parser.parse_known(rest, config_flags())
    print(parser.format_help_all())
    print("Those of `vitral train`:\n")
    print(format_all_flags(train_parser, args.data, train_args, rest))


def _short_run_flags(config: "TrainConfig", steps: int, given: list[str]) -> list[str]:
    """Flags that make any recipe short and save often; the user's own win."""
    loop, schedule = config.loop, config.schedule
    part = max(1, steps // 5)
    defaults = {
        "--checkpoint-every": part,
        "--eval-every": min(loop.eval_every or steps, max(1, steps // 2)),
        "--warmup": min(schedule.warmup, part),
        "--cooldown": min(schedule.cooldown, part),
        "--patience": 0,
    }
    named = {word.partition("=")[0] for word in given}
    chosen = {name: value for name, value in defaults.items() if name not in named}
    # The steps are seen in the log.
    chosen |= {"--steps": steps, "--log-every": 1}
    return [word for name, value in chosen.items() for word in (name, str(value))]


def make_parser() -> Parser:
    """Declare the words and flags of the verb; those of `vitral train` follow."""
    parser = Parser(
        "verify-resume",
        "Trains by RECIPE on DATA (digits, if none is named) twice on this machine: "
        "once unbroken, and once killed with SIGKILL at random moments and resumed by "
        "the same command; compares weights, optimizer, metrics and the order of "
        "examples bit for bit. Flags of `vitral train` may follow. Exit code 0: "
        "equal; 6: not equal.",
        usage="RECIPE [DATA]",
        examples=(
            "small.scratch",
            "small.scratch photos --kills 10 --steps 50",
            "small.finetune photos --weights W.safetensors -b 8",
        ),
    )
    parser.add("recipe", "", "as of `vitral train`")
    parser.add("data", "digits", "as of `vitral train`; digits come with the install")
    parser.add("--weights", "", "as in `vitral train`")
    parser.add("--kills", 5, "of the second run")
    parser.add("--steps", 20, "updates of each of the two runs")
    parser.add("--seed", 0, "of the run and of the moments of kills")
    parser.add(
        "--out",
        "",
        "a new folder for both runs; by default a temporary one, which stays "
        "only where they differ",
    )
    return parser


class _OutputFolder:
    """The folder of both runs; a temporary one stays only where they differ."""

    def __init__(self, out: str) -> None:
        self.temporary = not out
        if out and Path(out).exists() and any(Path(out).iterdir()):
            raise ConfigError(f"The folder {out} is in use: give another `--out`.")
        self.folder = Path(out or tempfile.mkdtemp(prefix="vitral-verify-"))

    def __enter__(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.temporary and not isinstance(error, GateError):
            shutil.rmtree(self.folder, ignore_errors=True)
