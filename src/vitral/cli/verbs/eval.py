"""`vitral eval RUN [DATA]`: every number of a model on a data set."""

import argparse
import json
import os
from pathlib import Path

from vitral.cli.flags import (
    add_finetune_flags,
    add_merge_flags,
    run_finetune,
    validate_merge,
)
from vitral.cli.output import headline, input_noun
from vitral.cli.parser import Parser
from vitral.errors import ConfigError
from vitral.evaluation import RealAccuracy
from vitral.workflows import open_run
from vitral.workflows.evaluate import evaluate
from vitral.workflows.features import PROTOCOLS, probe_weights, to_json, write_probes


def run(argv: list[str]) -> None:
    """Measure, print a table per class, and keep the result in the run."""
    parser = Parser("eval", "Measure a trained model on a split.")
    parser.add_argument("run", help="a run, or for a probe weights of any layout")
    parser.add_argument("data", nargs="?", default="", help="default: the run's own")
    parser.add_argument("--split", default="", help="default: test, else val, else all")
    parser.add_argument("--views", default="", help="of clips: frames x crops, as 3x1")
    parser.add_argument("--bad-files", choices=("wrong", "refuse"), default="wrong")
    parser.add_argument(
        "--protocol",
        choices=("classify", *PROTOCOLS, "finetune"),
        default="classify",
        help="classify: the trained head; finetune: all of the model; the others learn "
        "from frozen features",
    )
    parser.add_argument("--shots", type=int, nargs="+", default=[], help="for fewshot")
    parser.add_argument("--k", type=int, default=20, help="neighbours, for knn")
    parser.add_argument("--seed", type=int, default=0, help="of draws and splits")
    parser.add_argument("--cache-dir", default="", help="where features are kept")
    parser.add_argument(
        "--real", default="", help="real.json: a second accuracy on imagenet"
    )
    add_finetune_flags(parser)
    add_merge_flags(parser)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="", help="folder for the result's files")
    parser.add_argument("--json", action="store_true", help="print the whole result")
    known = parser.parse(argv)
    _require_classify(known)
    if known.protocol == "finetune":
        run_finetune(known)
        return
    if known.protocol != "classify":
        if known.real:
            raise ConfigError(
                "`--real` scores a trained head: it goes with `--protocol classify`, "
                f"not with {known.protocol}. Leave one of the two out."
            )
        _probe(known)
        return
    opened = open_run(known.run, known.merge, known.merge_schedule)
    measured = evaluate(
        opened,
        data=known.data,
        split=known.split,
        views=known.views,
        bad_files=known.bad_files,
        device=known.device,
        out=Path(known.out) if known.out else None,
        real=Path(known.real) if known.real else None,
    )
    if int(os.environ.get("RANK", 0)):
        return
    if known.json:
        whole = measured.result.to_dict()
        if measured.real:
            whole["real"] = measured.real.to_dict()
        print(json.dumps(whole, indent=2))
        return
    noun = input_noun(opened)
    print(headline(measured.split, measured.result.to_dict(), noun))
    if measured.real:
        print(_real_line(measured.real))
    for line in [*measured.table(), *measured.calibration()]:
        print(line)
    if measured.bad:
        print(f"{len(measured.bad)} files could not be read and count as wrong:")
        for file in measured.bad[:5]:
            print(f"  {file.path}: {file.reason}")
    print(f"files: {measured.folder}")
    print(f"next: vitral predict {known.run} {noun.upper()}...")


def _require_classify(args: argparse.Namespace) -> None:
    """Refuse what goes with no other protocol."""
    validate_merge(args.merge, args.merge_schedule)
    if args.protocol == "classify":
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"`--protocol {args.protocol}` runs in one process: start it without "
            "torchrun."
        )
    if args.merge is not None:
        raise ConfigError(
            "`--merge` goes with `--protocol classify`: protocols that learn from "
            f"features merge nothing. Leave it out for {args.protocol}."
        )


def _real_line(real: RealAccuracy) -> str:
    low, high = real.interval
    return (
        f"ReaL: {100 * real.accuracy:.1f} % of {real.n:,} images right (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}; {real.left_out:,} without an accepted "
        "label left out)"
    )


def _probe(args: argparse.Namespace) -> None:
    """A protocol on frozen features: train split to learn from, test to be measured."""
    rows, material = probe_weights(
        args.run,
        args.data,
        protocol=args.protocol,
        shots=tuple(args.shots),
        k=args.k,
        seed=args.seed,
        folder=args.cache_dir or None,
        device=args.device,
    )
    if args.json:
        print(to_json(rows))
    else:
        print(
            f"{args.protocol}: {len(material.train.y):,} images to learn from, "
            f"{len(material.test.y):,} to measure, {len(material.classes)} classes"
        )
        for row in rows:
            print(f"  {row}")
    if args.out:
        file = Path(args.out) / f"{args.protocol}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_probes(rows, {"weights": args.run, "data": args.data}, file)
        print(f"files: {file}")
    if not args.json:
        data = args.data or "DATA"
        print(f"next: vitral train {data} --weights {args.run} --out RUN")
