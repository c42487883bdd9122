"""`vitral eval RUN [DATA]`: every number of a model on a data set."""

import argparse
import json
import os
from pathlib import Path

from vitral.cli.flags import (
    PROBES,
    add_device_flag,
    add_merge_flags,
    add_protocol_flags,
    read_image_size,
    validate_merge,
)
from vitral.cli.parser import Parser
from vitral.cli.task_flags import read_objective
from vitral.errors import ConfigError

HEAD, PROBE = "classify", " ".join(PROBES)
"""Protocols that read a flag: of the trained head, and of frozen features."""


def make_parser() -> Parser:
    parser = Parser(
        "eval",
        "Measure a trained model on a split.",
        usage="RUN [DATA]",
        common="--split --views --bad-files --max-bad --protocol --shots --k --merge "
        "--device --out --json",
        examples=(
            "runs/photos",
            "runs/photos other --split val --json",
            "W.safetensors photos --protocol fewshot --shots 1 5",
        ),
    )
    parser.add("run", str, "a run, or for a probe weights of any layout")
    parser.add("data", "", "default: the run's own")
    parser.add("--split", "", "default: test, else val, else all", modes=HEAD)
    parser.add(
        "--task NAME", "", "of a probe: what is learned from the data", modes=PROBE
    )
    parser.add(
        "--target COLUMN",
        [str],
        "of a probe: columns of numbers to learn",
        modes=PROBE,
    )
    parser.add("--views", "", "of clips: frames x crops, as 3x1", modes=HEAD)
    parser.add(
        "--bad-files",
        "wrong",
        "count unreadable files as wrong, or stop: `refuse` is `--max-bad 0`",
        choices=("wrong", "refuse"),
        modes=HEAD,
    )
    parser.add(
        "--max-bad SHARE",
        1.0,
        "share of unreadable files above which it exits with 3; above 1 their number",
        modes=HEAD,
    )
    parser.add(
        "--protocol",
        "classify",
        "classify: the trained head; finetune: all of the model; the others learn "
        "from frozen features",
        choices=("classify", *PROBES, "finetune"),
    )
    parser.add("--shots", [int], "for fewshot", modes="fewshot")
    parser.add("--real", "", "real.json: a second accuracy on imagenet", modes=HEAD)
    add_protocol_flags(parser, probes_resize=True)
    add_merge_flags(parser, modes=HEAD)
    add_device_flag(parser)
    parser.add("--out", "", "folder for the result's files")
    parser.add("--json", False, "print the whole result")
    return parser


def run(argv: list[str]) -> None:
    """Measure, print a table per class, and keep the result in the run."""
    parser = make_parser()
    args = parser.parse(argv)
    parser.require_read("--protocol", args.protocol)
    _require_one_process(args)
    if args.protocol == "finetune":
        from vitral.cli.finetune import run_finetune

        run_finetune(args)
        return
    if args.protocol != HEAD:
        _probe(args)
        return
    if args.bad_files == "refuse":
        parser.refuse_given("max_bad", "does nothing with `--bad-files refuse`.")
    _evaluate(args)


def _evaluate(args: argparse.Namespace) -> None:
    from vitral.cli.output import input_noun
    from vitral.workflows import open_run
    from vitral.workflows.evaluate import evaluate

    run = open_run(args.run, args.merge, args.merge_schedule)
    measured = evaluate(
        run,
        data=args.data,
        split=args.split,
        views=args.views,
        max_bad=0.0 if args.bad_files == "refuse" else args.max_bad,
        device=args.device,
        out=Path(args.out) if args.out else None,
        real=Path(args.real) if args.real else None,
    )
    if int(os.environ.get("RANK", 0)):
        return
    if args.json:
        result = measured.result.to_dict()
        if measured.real:
            result["real"] = measured.real.to_dict()
        print(json.dumps(result, indent=2))
        return
    noun = input_noun(run)
    print(f"{measured.split}: {measured.result.sentence(noun)}")
    if measured.real:
        print(measured.real.sentence())
    for line in measured.result.lines(measured.split):
        print(line)
    if measured.bad:
        print(f"{len(measured.bad)} files could not be read and count as wrong:")
        for file in measured.bad[:5]:
            print(f"  {file.path}: {file.reason}")
    print(f"files: {measured.folder}")
    print(f"next: vitral predict {args.run} {noun.upper()}...")


def _require_one_process(args: argparse.Namespace) -> None:
    """Refuse torchrun where the protocol is not that of the trained head."""
    validate_merge(args.merge, args.merge_schedule)
    if args.protocol == HEAD:
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"`--protocol {args.protocol}` runs in one process: start it without "
            "torchrun."
        )


def _probe(args: argparse.Namespace) -> None:
    """Run a protocol on frozen features: learn from train, measure on test."""
    from vitral.workflows.features import (
        ProbeSettings,
        probe_weights,
        to_json,
        write_probes,
    )
    from vitral.workflows.runtime import Runtime

    rows, material = probe_weights(
        args.run,
        args.data,
        protocol=args.protocol,
        settings=ProbeSettings(shots=tuple(args.shots), k=args.k, seed=args.seed),
        objective=read_objective(args.task, args.target),
        folder=args.cache_dir or None,
        runtime=Runtime(device=args.device, workers=args.workers),
        image_size=read_image_size(args.image_size),
    )
    if args.json:
        print(to_json(rows))
    else:
        print(
            f"{args.protocol}: {len(material.train.y):,} images to learn from, "
            f"{len(material.test.y):,} to measure, {material.described}"
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
