"""`vitral predict RUN FILES...`: one JSON line or CSV row per image or clip."""

import argparse
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.flags import add_device_flag, add_merge_flags, validate_merge
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, DataError
from vitral.validation import not_negative

if TYPE_CHECKING:
    from vitral.workflows.run import Run

WRITERS = ("jsonl", "csv", "parquet")
"""Those of `vitral.workflows.predict.WRITERS`."""


def make_parser() -> Parser:
    parser = Parser(
        "predict",
        "One JSON line or CSV row per image or clip.",
        usage="RUN FILES...",
        examples=(
            "runs/photos new/*.jpg",
            "runs/photos new/ --format csv --top 3",
            "runs/photos archive --out answers.parquet --workers 4",
        ),
    )
    parser.add("run", str, "a run folder, or its model folder")
    parser.add("files", [str], "images or clips, folders, or patterns")
    parser.add(
        "--out",
        "",
        "FILE.jsonl, .csv or .parquet, or a folder for parts; the same command "
        "goes on where it was stopped",
    )
    parser.add(
        "--format",
        "",
        "default: by the ending of --out, else lines of JSON",
        choices=("json", *WRITERS),
    )
    parser.add("--top", 5, "classes to list")
    parser.add("--batch-size -b", 32, "images in one pass")
    parser.add(
        "--workers -j",
        int,
        "processes that read ahead; default: by the number of files",
    )
    parser.add(
        "--max-bad SHARE",
        0.0,
        "share of unreadable files above which it exits with 3; above 1 their number",
    )
    add_merge_flags(parser)
    add_device_flag(parser)
    return parser


def run(argv: list[str]) -> None:
    """Answer for every file; an unreadable one gets its reason, and exit code 3."""
    parser = make_parser()
    args = parser.parse(argv)
    for name, least in (("batch_size", 1), ("workers", 0), ("top", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise ConfigError(f"`--{flag}` must be at least {least}: got {value}.")
    not_negative(max_bad=args.max_bad)
    validate_merge(args.merge, args.merge_schedule)
    from vitral.workflows.run import open_run

    model_run = open_run(args.run, args.merge, args.merge_schedule)
    presentation = model_run.task.present(model_run.labels, model_run.metadata)
    if not presentation.listed:
        parser.refuse_given(
            "top",
            f"does nothing: a model of {model_run.task.name} has no list of answers. "
            "Leave it out.",
        )
    if args.out:
        _to_files(model_run, args)
    else:
        _to_terminal(model_run, args)


def _to_files(model_run: "Run", args: argparse.Namespace) -> None:
    from vitral.workflows.predict import predict_files  # with locks and ranks

    made = predict_files(
        model_run,
        args.files,
        args.out,
        form=args.format,
        top=args.top,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
    )
    if int(os.environ.get("RANK", 0)):
        return
    print(made)
    print(f"files: {made.out}")
    print(f"next: vitral inspect {args.run} FILES --out DIR")
    _require_few_unreadable(made.unreadable, made.files, args.max_bad)


def _to_terminal(model_run: "Run", args: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("Several processes share files, not a terminal: give --out.")
    from vitral.workflows.predict import (
        CsvWriter,
        JsonLinesWriter,
        PredictOptions,
        find_files,
        move_model,
        predict_rows,
        resolve_format,
    )
    from vitral.workflows.runtime import pick_model_device

    model_run.require_head()
    types = model_run.task.row_types(model_run.labels)
    form = resolve_format(args.format, None)
    writer = {"jsonl": JsonLinesWriter, "csv": CsvWriter}[form](types)
    move_model(model_run, pick_model_device(model_run.model, args.device))
    kind = model_run.preprocess.kind
    size = model_run.preprocess.batch_size(args.batch_size)
    answers = PredictOptions(model_run, args.top, args.workers)
    total = failed = 0
    print(writer.header, end="")
    for _, batch in predict_rows(answers, _batches(find_files(args.files, kind), size)):
        total += len(batch)
        failed += sum(bool(row.error) for row in batch)
        print("".join(map(writer.format_row, batch)), end="", flush=True)
    _require_few_unreadable(failed, total, args.max_bad)


def _batches(files: Iterator[Path], size: int) -> Iterator[tuple[Path, ...]]:
    while batch := tuple(itertools.islice(files, size)):
        yield batch


def _require_few_unreadable(failed: int, total: int, max_bad: float) -> None:
    from vitral.data.audit import accepted_bad, accepted_text

    if failed <= accepted_bad(max_bad, total):
        return
    limit = f", more than the {accepted_text(max_bad)} accepted" if max_bad else ""
    raise DataError(
        f"{failed} of {total} files could not be read{limit}; each has its reason in "
        "the output. Repair or remove them, or raise `max_bad`."
    )
