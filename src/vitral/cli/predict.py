"""`vitral predict RUN FILES...`: one JSON line or CSV row per image."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vitral.cli.parser import Parser
from vitral.data.images import EXTENSIONS
from vitral.errors import ConfigError, DataError, ImageError
from vitral.run import Answer, Run, open_run

BATCH = 32


def run(words: list[str]) -> None:
    """Answer for every image; an unreadable one gets its reason, and exit code 3."""
    parser = Parser("predict", "One JSON line or CSV row per image.")
    parser.add_argument("run", help="a run folder, or its model folder")
    parser.add_argument("files", nargs="+", help="images, folders, or patterns")
    parser.add_argument("--format", choices=("json", "csv"), default="json")
    parser.add_argument("--top", type=int, default=5, help="classes to list")
    known = parser.read(words)
    opened = open_run(known.run)
    files = list(found(known.files))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if known.format == "csv":
        writer.writerow(["path", "label", "confidence", "error"])
    failed = 0
    for start in range(0, len(files), BATCH):
        for file, answer, reason in _answers(opened, files[start : start + BATCH]):
            failed += bool(reason)
            if known.format == "csv":
                label = answer.label if answer else ""
                share = f"{answer.confidence:.6g}" if answer else ""
                writer.writerow([str(file), label, share, reason])
                continue
            row: dict[str, object] = {"path": str(file)}
            if answer is None:
                row["error"] = reason
            else:
                best = sorted(answer.probabilities.items(), key=lambda item: -item[1])
                row |= {"label": answer.label, "confidence": answer.confidence}
                row["probabilities"] = dict(best[: known.top])
            print(json.dumps(row))
    if failed:
        raise DataError(
            f"{failed} of {len(files)} files could not be read; each has its reason in "
            "the output."
        )


def found(patterns: list[str]) -> Iterator[Path]:
    """The image files that were named: files, folders at any depth, or patterns.

    Raises:
        ConfigError: nothing is there, or a folder holds no image.
    """
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file():
            yield path
            continue
        if path.is_dir():
            inside = sorted(path.rglob("*"))
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            inside = sorted(base.glob(str(path.relative_to(path.anchor))))
        images = [
            file
            for file in inside
            if file.is_file() and file.suffix.lower() in EXTENSIONS
        ]
        if not images:
            raise ConfigError(
                f"No image at {pattern}: give files, folders or patterns."
            )
        yield from images


def _answers(
    opened: Run, files: Sequence[Path]
) -> Iterator[tuple[Path, Answer | None, str]]:
    readable, rows = [], []
    for file in files:
        try:
            readable.append(opened.preprocess(file))
            rows.append((file, ""))
        except ImageError as error:
            rows.append((file, str(error)))
    answers = iter(opened.answers(torch.stack(readable)) if readable else ())
    for file, reason in rows:
        yield file, None if reason else next(answers), reason
