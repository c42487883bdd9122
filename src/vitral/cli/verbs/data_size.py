"""`vitral study data-size WEIGHTS... DATA`: predict the gain of more images."""

import argparse
import shlex
from pathlib import Path

from vitral.cli.flags import add_device_flag
from vitral.cli.parser import Parser
from vitral.errors import ConfigError

NAME = "data-size"
"""That of `vitral.studies.data_size.NAME`."""
DRAWS = range(10)
"""Those of `vitral.studies.data_size.DRAWS`."""
PROTOCOLS = ("ridge", "linear", "knn")
"""Those of `vitral.studies.data_size.PROTOCOLS`."""
MODELS = ("vit", "resnet")
"""Those of `vitral.studies.families.MODELS`."""
TRAINING_SEEDS = (0, 1, 2)


def add_flags(parser: Parser) -> None:
    """Add the flags that only this study has."""
    parser.add(
        "--protocol",
        "ridge",
        "data-size: what is learned from the frozen features",
        choices=PROTOCOLS,
    )
    parser.add(
        "--fractions", [float], "data-size: of the training images; default: six sizes"
    )
    parser.add(
        "--families", [str], f"data-size: train from zero instead: {' '.join(MODELS)}"
    )
    parser.add("--data", "", "data-size: the data, with --families")
    parser.add("--cache-dir", "", "data-size: where features are kept")


def make_parser() -> Parser:
    parser = Parser(
        f"study {NAME}",
        "Would more training images help?",
        usage="WEIGHTS... DATA",
        examples=(
            "W.safetensors photos",
            "A.npz B.npz photos --protocol knn --seeds 0 1 2",
            "--families vit resnet --data photos --jobs 2",
        ),
    )
    parser.add(
        "paths",
        [str],
        "weights of any layout, one or several, and the data last",
        nargs="*",
        metavar="WEIGHTS... DATA",
    )
    add_flags(parser)
    parser.add(
        "--seeds",
        [int],
        f"draws of the subsets; default {DRAWS[0]} to {DRAWS[-1]}, with "
        f"--families {' '.join(map(str, TRAINING_SEEDS))}",
    )
    parser.add("--out", "", f"default: studies/{NAME}")
    parser.add("--jobs", 1, "trainings at a time")
    add_device_flag(parser)
    return parser


def run(argv: list[str]) -> None:
    """Measure growing subsets, fit the curve, predict, and write the page."""
    parser = make_parser()
    args = parser.parse(argv)
    command = shlex.join(["vitral", "study", NAME, *argv])
    if args.families:
        parser.refuse_given(
            "protocol cache_dir",
            "goes with weights, and does nothing with `--families`: leave it out.",
        )
        _run_families(args, command)
        return
    if len(args.paths) < 2 or args.data:
        raise ConfigError(
            f"Give weights and data: `vitral study {NAME} WEIGHTS... DATA`. To train "
            f"from zero instead: `vitral study {NAME} --families vit resnet --data "
            "DATA`."
        )
    parser.refuse_given(
        "jobs", "goes with `--families`, and does nothing with weights: leave it out."
    )
    from vitral.studies.data_size import run_data_size_study
    from vitral.studies.data_size_page import (
        prediction_lines,
        size_lines,
        write_data_size_page,
    )
    from vitral.studies.engine import describe_machine

    *weights, data = args.paths
    out = Path(args.out or f"studies/{NAME}")
    answer = run_data_size_study(
        weights,
        data,
        protocol=args.protocol,
        seeds=args.seeds or DRAWS,
        fractions=args.fractions,
        folder=args.cache_dir or None,
        device=args.device,
    )
    page = write_data_size_page(answer, out, command, describe_machine())
    for line in [*size_lines(answer), "", *prediction_lines(answer)]:
        print(line)
    print(answer.verdict)
    print(f"files: {page}, {NAME}.png, result.json")
    print(f"next: vitral train {data} --weights {weights[0]} --out RUN")


def _run_families(args: argparse.Namespace, command: str) -> None:
    data = args.data or "".join(args.paths[:1])
    if not data or len(args.paths) > (0 if args.data else 1):
        raise ConfigError(
            "With `--families` there are no weights: give the data alone, with "
            "`--data`."
        )
    from vitral.studies.families import run_families_study

    out = Path(args.out or f"studies/{NAME}-families")
    finished = run_families_study(
        args.families,
        data,
        out,
        seeds=args.seeds or TRAINING_SEEDS,
        fractions=args.fractions,
        jobs=args.jobs,
        device=args.device,
        command=command,
    )
    for line in finished.lines:
        print(line)
    print(finished.verdict)
    print(f"files: {finished.page}")
    print(f"next: vitral report {out}/runs/*")
