"""`vitral verify-resume RECIPE [DATA]`: is a killed and resumed run the same run?"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import vitral.recipes
from vitral.cli.parser import Parser
from vitral.cli.verbs.train import FLAG_ALIASES, make_train_parser, resolve_config
from vitral.errors import ConfigError, GateError
from vitral.workflows import TrainConfig
from vitral.workflows.resume_check import (
    StartCommand,
    TrainProcess,
    errors_file,
    run_reference,
    run_with_kills,
)

PROGRAM = (sys.executable, "-m", "vitral")
DEFAULT_DATA = "digits"
"""Comes with the install."""


def run(argv: list[str]) -> None:
    """Train unbroken, train with kills, compare, and say what was found."""
    names, flags = _split_positional(argv)
    parser = _parser()
    known, rest = parser.parse_known_args(flags)
    if not names:
        parser.error("the name of a recipe comes first.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "`vitral verify-resume` kills one process: start it without torchrun."
        )
    for name, least in (("steps", 2), ("kills", 1)):
        value = getattr(known, name)
        if value < least:
            raise ConfigError(f"`--{name}` must be at least {least}: got {value}.")
    data = names[1] if len(names) > 1 else DEFAULT_DATA
    config = vitral.recipes.get_recipe(names[0])(data, known.weights)
    command = ["train", data, "--recipe", names[0], *rest]
    if known.weights:
        command += ["--weights", known.weights]
    command += _short_run_flags(config, known.steps, rest)
    command += ["--seed", str(known.seed)]
    _validate_flags(command[1:])
    with _OutputFolder(known.out) as out:
        start = make_starter([*PROGRAM, *command])
        print(f"unbroken: vitral {' '.join(command)}", flush=True)
        pace = run_reference(start, out / "unbroken", known.steps)
        print(f"now with {known.kills} kills, and --resume", flush=True)
        result = run_with_kills(
            start,
            out / "killed",
            out / "unbroken",
            pace,
            steps=known.steps,
            kills=known.kills,
            seed=known.seed,
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
        if known.out:
            print(f"files: {out}")


def make_starter(command: list[str]) -> StartCommand:
    """Start `command` with `--out FOLDER --resume`; what it says goes to files."""

    def start(out: Path) -> TrainProcess:
        with errors_file(out).open("ab") as errors:
            return subprocess.Popen(
                [*command, "--out", str(out), "--resume"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    return start


def _validate_flags(argv: list[str]) -> None:
    """Leave with exit code 2 and a sentence where `vitral train` would."""
    known, rest = make_train_parser().parse_known_args(argv[1:])
    resolve_config(argv[0], known, rest)


def _short_run_flags(config: TrainConfig, steps: int, given: list[str]) -> list[str]:
    """Flags that make any recipe short and save often; the user's own win."""
    loop, schedule = config.loop, config.schedule
    part = max(1, steps // 5)
    wanted = {
        "--checkpoint-every": part,
        "--eval-every": min(loop.eval_every or steps, max(1, steps // 2)),
        "--warmup": min(schedule.warmup, part),
        "--cooldown": min(schedule.cooldown, part),
        "--patience": 0,
    }
    own = {word.partition("=")[0].replace("_", "-") for word in given}
    chosen = {name: value for name, value in wanted.items() if name not in own}
    # The steps are seen in the log.
    chosen |= {"--steps": steps, "--log-every": 1}
    return [word for name, value in chosen.items() for word in (name, str(value))]


def _split_positional(argv: list[str]) -> tuple[list[str], list[str]]:
    """RECIPE and DATA, and the flags in one spelling; at most two names."""
    names: list[str] = []
    while argv and not argv[0].startswith("-") and len(names) < 2:
        names.append(argv[0])
        argv = argv[1:]
    flags = []
    for word in argv:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        flags.append(FLAG_ALIASES.get(name, name) + equals + value)
    return names, flags


def _parser() -> Parser:
    parser = Parser(
        "verify-resume",
        "Trains by RECIPE on DATA (digits, if none is named) twice on this machine: "
        "once unbroken, and once killed with SIGKILL at random moments and resumed by "
        "the same command; compares weights, optimizer, metrics and the order of "
        "examples bit for bit. Flags of `vitral train` may follow. Exit code 0: "
        "equal; 6: not equal.",
    )
    parser.usage = "vitral verify-resume RECIPE [DATA] [flags of train]"
    parser.add_argument("--weights", default="", help="as in `vitral train`")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=20, help="updates of each of the two runs"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the run and of the moments of kills"
    )
    parser.add_argument(
        "--out",
        default="",
        help="a new folder for both runs; by default a temporary one, which stays "
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
