"""`vitral self-train DATA UNLABELLED --out FOLDER`: rounds of teacher and student."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.logs import install_handler, say, set_log_folder
from vitral.cli.parser import Parser
from vitral.cli.verbs import train
from vitral.errors import ConfigError

if TYPE_CHECKING:
    from vitral.workflows.self_training import SelfTrainingConfig, SelfTrainingResult

UNREAD = "dry_run devices flops_per_second shard checkpoint_activations rank_timeout"
"""Flags of `vitral train` that the students' trainings have not."""


def run(argv: list[str]) -> None:
    """Parse, train every round, and compare the last one with the teacher."""
    parser = make_parser()
    help_all = parser.handle_help(argv)
    if not argv:
        print(parser.format_help())
        raise SystemExit(2)
    from vitral.cli.train_config import config_flags, format_all_flags, resolve_config
    from vitral.workflows.runtime import Runtime
    from vitral.workflows.self_training import self_train

    student_parser = train.make_parser()
    fields = config_flags(argv)
    args, student_argv = parser.parse_known(argv, {**fields, **student_parser.flags()})
    student, rest = student_parser.parse_known(student_argv, fields)
    if help_all:
        print(parser.format_help_all())
        print("The students take the flags of `vitral train` too:\n")
        print(format_all_flags(student_parser, args.data, student, rest))
        return
    if not args.data or not args.unlabelled:
        raise ConfigError(
            "`vitral self-train` takes the labelled data and then the folder of "
            "unlabelled images, as in `vitral self-train DATA UNLABELLED --out FOLDER`."
        )
    if not args.out:
        raise ConfigError("`vitral self-train` needs `--out FOLDER` to write to.")
    student_parser.refuse_given(
        "resume", "is not needed: `vitral self-train` goes on by itself. Leave it out."
    )
    student_parser.refuse_given(
        UNREAD, "does nothing in `vitral self-train`: leave it out."
    )
    out = Path(args.out)
    # Students of a job that goes on start where its first one did.
    begun = [out / name for name in ("round-0", "round-1") if (out / name).is_dir()]
    student.resume, student.out = bool(begun), str(begun[0] if begun else "")
    resolved = resolve_config(args.data, student, rest)
    if not out.is_file():
        out.mkdir(parents=True, exist_ok=True)
        set_log_folder(out)
    install_handler(say)
    if resolved.start:
        say(resolved.start)
    say(f"recipe {resolved.recipe}: {resolved.reason}")
    finished = self_train(
        resolved.config,
        args.unlabelled,
        out,
        teacher=args.teacher or None,
        settings=_settings(args),
        truth=args.truth or None,
        labels_only=args.labels_only,
        runtime=Runtime(device=student.device, workers=student.workers),
    )
    for line in summary_lines(finished, labels_only=args.labels_only):
        say(line)


def make_parser() -> Parser:
    """Declare the flags of the rounds; those of `vitral train` go to the students.

    The defaults are those of `vitral.workflows.self_training.SelfTrainingConfig`.
    """
    parser = Parser(
        "self-train",
        "A teacher labels a folder of images; students learn from its sure answers and "
        "the labelled images, with noise (arXiv 1911.04252). The same command goes on "
        "where it stopped. The students take the flags of `vitral train`.",
        usage="DATA UNLABELLED --out FOLDER",
        examples=(
            "photos pictures --out runs/students",
            "photos pictures --teacher runs/photos --rounds 2 --out runs/s",
            "photos pictures --labels-only --epochs 20 --out runs/s",
        ),
    )
    parser.add("data", "", "the labelled images, as `vitral train` takes")
    parser.add("unlabelled", "", "a folder of images at any depth")
    parser.add("--out", "", "folder for all rounds")
    parser.add("--teacher RUN", "", "a run; without it one is trained in round-0")
    parser.add("--rounds", 3, "students, one after the other")
    parser.add("--threshold", 0.3, "least confidence that is kept")
    parser.add(
        "--per-class",
        0,
        "images of each class; 0: the mean number kept, -1: no balance",
    )
    parser.add("--ratio", 3.0, "pseudo-labelled images for each labelled one")
    parser.add("--sharpen", 1.0, "T of targets p^(1/T); below 1 is sharper")
    parser.add("--hard", False, "the class alone")
    parser.add(
        "--calibrated", False, "confidence with the temperature of the teacher's run"
    )
    parser.add("--truth TABLE", "", "a table path,label, for the report alone")
    parser.add("--labels-only", False, "stop when the next round's labels are written")
    return parser


def _settings(args: argparse.Namespace) -> "SelfTrainingConfig":
    from vitral.workflows.self_training import SelfTrainingConfig

    return SelfTrainingConfig(
        rounds=args.rounds,
        threshold=args.threshold,
        per_class=args.per_class,
        ratio=args.ratio,
        temperature=args.sharpen,
        hard=args.hard,
        calibrated=args.calibrated,
    )


def summary_lines(done: "SelfTrainingResult", *, labels_only: bool) -> list[str]:
    """Return the teacher, each round, the comparison, and what to do next."""
    from vitral.evaluation.compare import format_p

    width = max((len(result.name) for result in done.results), default=0)
    lines = [
        f"{result.name:{width}}  {done.split} {100 * result.accuracy:.1f} % of "
        f"{result.n} images right (95 % interval {100 * result.interval.low:.1f} to "
        f"{100 * result.interval.high:.1f} %)  {result.path}"
        for result in done.results
    ]
    if done.comparison is not None:
        difference = done.comparison.result
        lines.append(
            f"last round less teacher: {100 * difference.difference:+.1f} points, "
            f"{format_p(difference.p)} (McNemar's exact test): "
            f"{_verdict(difference.difference, difference.distinguishable)}"
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
