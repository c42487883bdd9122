"""`vitral self-train DATA UNLABELLED --out FOLDER`: rounds of teacher and student."""

import argparse
from pathlib import Path

from vitral.cli.logs import install_handler, say, set_log_folder
from vitral.cli.verbs.train import (
    make_train_parser,
    resolve_config,
    show_help,
    split_positional,
)
from vitral.errors import ConfigError
from vitral.evaluation.compare import format_p
from vitral.workflows.runtime import Runtime
from vitral.workflows.self_training import (
    SelfTrainingConfig,
    SelfTrainingResult,
    self_train,
)

DEFAULTS = SelfTrainingConfig()


def run(argv: list[str]) -> None:
    """Parse, train every round, and say who is better than the teacher."""
    parser = _flags()
    if not argv or {"-h", "--help"} & set(argv):
        print(parser.format_help())
        if not argv:
            raise SystemExit(2)
        print("The students take the flags of `vitral train` too:\n")
        show_help("", "")
    data, flags = split_positional(argv)
    if not data or not flags or flags[0].startswith("-"):
        raise ConfigError(
            "`vitral self-train` takes the labelled data and then the folder of "
            "unlabelled images, as in `vitral self-train DATA UNLABELLED --out FOLDER`."
        )
    unlabelled = flags[0]
    own, others = parser.parse_known_args([data, *flags])
    if not own.out:
        raise ConfigError("`vitral self-train` needs `--out FOLDER` to write to.")
    known, rest = make_train_parser().parse_known_args(others)
    if known.resume:
        raise ConfigError(
            "`vitral self-train` goes on by itself where it stopped: leave `--resume` "
            "out."
        )
    settings = SelfTrainingConfig(
        rounds=own.rounds,
        threshold=own.threshold,
        per_class=own.per_class,
        ratio=own.ratio,
        temperature=own.sharpen,
        hard=own.hard,
        calibrated=own.calibrated,
    )
    config, recipe, reason = resolve_config(data, known, rest)
    out = Path(own.out)
    if not out.is_file():
        out.mkdir(parents=True, exist_ok=True)
        set_log_folder(out)
    install_handler(say)
    say(f"recipe {recipe}: {reason}")
    finished = self_train(
        config,
        unlabelled,
        out,
        teacher=own.teacher or None,
        settings=settings,
        truth=own.truth or None,
        labels_only=own.labels_only,
        runtime=Runtime(device=known.device, workers=known.workers),
    )
    for line in summary_lines(finished, labels_only=own.labels_only):
        say(line)


def _flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitral self-train",
        usage="vitral self-train DATA UNLABELLED --out FOLDER [--teacher RUN] ...",
        description=(
            "A teacher labels a folder of images; students learn from its sure "
            "answers and the labelled images, with noise (arXiv 1911.04252). The same "
            "command goes on where it stopped."
        ),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("data", help="the labelled images, as `vitral train` takes")
    parser.add_argument("unlabelled", help="a folder of images at any depth")
    parser.add_argument("--out", default="", help="folder for all rounds")
    parser.add_argument(
        "--teacher", default="", help="a run; without it one is trained in round-0"
    )
    parser.add_argument("--rounds", type=int, default=DEFAULTS.rounds)
    parser.add_argument(
        "--threshold",
        type=float,
        default=DEFAULTS.threshold,
        help="least confidence that is kept",
    )
    parser.add_argument(
        "--per-class",
        type=int,
        default=DEFAULTS.per_class,
        help="images of each class; 0: the mean number kept, -1: no balance",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        default=DEFAULTS.ratio,
        help="pseudo-labelled images for each labelled one",
    )
    parser.add_argument(
        "--sharpen",
        type=float,
        default=DEFAULTS.temperature,
        help="T of targets p^(1/T); below 1 is sharper",
    )
    parser.add_argument("--hard", action="store_true", help="the class alone")
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="confidence with the temperature of the teacher's run",
    )
    parser.add_argument(
        "--truth", default="", help="a table path,label, for the report alone"
    )
    parser.add_argument(
        "--labels-only",
        action="store_true",
        help="stop when the next round's labels are written",
    )
    return parser


def summary_lines(done: SelfTrainingResult, *, labels_only: bool) -> list[str]:
    """The teacher, each round, the comparison, and what to do next."""
    width = max((len(result.name) for result in done.results), default=0)
    lines = [
        f"{result.name:{width}}  {done.split} {100 * result.accuracy:.1f} % of "
        f"{result.n} images right (95 % interval {100 * result.interval.low:.1f} to "
        f"{100 * result.interval.high:.1f} %)  {result.path}"
        for result in done.results
    ]
    if done.comparison is not None:
        found = done.comparison.result
        lines.append(
            f"last round less teacher: {100 * found.difference:+.1f} points, "
            f"{format_p(found.p)} (McNemar's exact test): "
            f"{_verdict(found.difference, found.distinguishable)}"
        )
    if labels_only:
        newest = max(done.out.glob("pseudo-*"), key=lambda p: int(p.name.split("-")[1]))
        lines.append(f"labels: {newest / 'pseudo.jsonl'}")
        lines.append("next: the same command without --labels-only")
        return lines
    if done.results:
        lines.append(f"next: vitral report {done.results[-1].path}")
    return lines


def _verdict(difference: float, distinguishable: bool) -> str:
    if not distinguishable:
        return "they cannot be told apart"
    return "self-training has paid" if difference > 0 else "self-training has harmed"
