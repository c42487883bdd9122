"""`vitral compare A B`: test two models on the same images."""

import json
from typing import TYPE_CHECKING

from vitral.cli.parser import Parser

if TYPE_CHECKING:
    from vitral.evaluation import Comparison, Interval

MAX_CLASSES = 20
"""Most rows of the table of classes."""


def make_parser() -> Parser:
    parser = Parser(
        "compare",
        "Compare two models on the images both were measured on.",
        usage="A B",
        examples=(
            "runs/photos runs/tuned",
            "runs/photos runs/tuned --split val",
            "ours.csv theirs.csv --json",
        ),
    )
    parser.add("a", str, "a run folder, or a .csv of predictions")
    parser.add("b", str, "the other one")
    parser.add("--split", "", "of run folders; test, else val")
    parser.add("--json", False, "print the whole result")
    return parser


def run(argv: list[str]) -> None:
    """Print both accuracies, their difference, and whether chance explains it."""
    args = make_parser().parse(argv)
    from vitral.workflows.evaluate import compare_runs

    compared = compare_runs(args.a, args.b, split=args.split)
    if args.json:
        print(json.dumps(compared.to_dict(), indent=2, allow_nan=False))
        return
    for line in [*_lines(compared.result), *compared.notes()]:
        print(line)
    if compared.both_runs:
        print(f"next: vitral report {args.a} {args.b}")


def _lines(result: "Comparison") -> list[str]:
    from vitral.evaluation.compare import format_p

    width = max(len(result.a), len(result.b))
    noun = "image" if result.n == 1 else "images"
    sides = (
        (result.a, result.accuracy_a, result.accuracy_a_interval),
        (result.b, result.accuracy_b, result.accuracy_b_interval),
    )
    return [
        *(
            f"{name:{width}}  {100 * accuracy:5.1f} % of {result.n} {noun} right "
            f"(95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %)"
            for name, accuracy, interval in sides
        ),
        f"difference, second less first: {100 * result.difference:+.1f} points "
        f"(95 % interval {_format_interval(result.difference_interval)})",
        f"both right {result.both_right}, only the first {result.only_a}, only the "
        f"second {result.only_b}, neither {result.both_wrong}; McNemar's exact test "
        f"{format_p(result.p)}",
        result.verdict,
        *_class_lines(result),
    ]


def _class_lines(result: "Comparison") -> list[str]:
    from vitral.evaluation.compare import format_p

    differing = [row for row in result.per_class if row.differs]
    tested = len(result.per_class)
    if not differing:
        return [f"No class differs after Holm's correction over {tested} classes."]
    differing.sort(key=lambda row: row.p_corrected)
    lines = [
        f"{len(differing)} of {tested} classes differ after Holm's correction:",
        f"  {'class':20} {'images':>7} {'first':>8} {'second':>8}",
    ]
    lines += [
        f"  {row.name[:20]:20} {row.support:7} {100 * row.recall_a:6.1f} % "
        f"{100 * row.recall_b:6.1f} %  {format_p(row.p_corrected)}"
        for row in differing[:MAX_CLASSES]
    ]
    if len(differing) > MAX_CLASSES:
        lines.append(f"  and {len(differing) - MAX_CLASSES} more, in `--json`")
    return lines


def _format_interval(interval: "Interval") -> str:
    return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
