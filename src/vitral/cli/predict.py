"""`vitral predict RUN FILES...`: one JSON line or CSV row per image or clip."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from vitral.cli.parser import Parser
from vitral.data.frames import EXTENSIONS as CLIP_EXTENSIONS
from vitral.data.frames import frame_files, has_clips
from vitral.data.images import EXTENSIONS
from vitral.errors import ConfigError, DataError, ImageError
from vitral.run import Answer, Run, open_run
from vitral.run.clips import evaluation_batch


def run(words: list[str]) -> None:
    """Answer for every file; an unreadable one gets its reason, and exit code 3."""
    parser = Parser("predict", "One JSON line or CSV row per image or clip.")
    parser.add_argument("run", help="a run folder, or its model folder")
    parser.add_argument(
        "files", nargs="+", help="images or clips, folders, or patterns"
    )
    parser.add_argument("--format", choices=("json", "csv"), default="json")
    parser.add_argument("--top", type=int, default=5, help="classes to list")
    parser.add_argument(
        "--merge", type=int, default=None, help="tokens to merge in each block"
    )
    known = parser.read(words)
    opened = open_run(known.run, known.merge)
    files = list(
        found(known.files, "clips" if opened.preprocess.sampling else "images")
    )
    batch = evaluation_batch(opened.preprocess)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if known.format == "csv":
        writer.writerow(["path", "label", "confidence", "error"])
    failed = 0
    for start in range(0, len(files), batch):
        for file, answer, reason in _answers(opened, files[start : start + batch]):
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


def found(
    patterns: list[str], kind: Literal["images", "clips"] = "images"
) -> Iterator[Path]:
    """The images or clips that were named: files, folders at any depth, or patterns.

    Raises:
        ConfigError: nothing is there, or a folder holds none.
    """
    is_one = _is_clip if kind == "clips" else _is_image
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file() or (path.is_dir() and is_one(path)):
            yield path
            continue
        if path.is_dir():
            inside = sorted(path.rglob("*"))
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            inside = sorted(base.glob(str(path.relative_to(path.anchor))))
        chosen = [file for file in inside if is_one(file)]
        if not chosen:
            raise ConfigError(
                f"No {kind[:-1]} at {pattern}: give files, folders or patterns."
            )
        yield from chosen


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in EXTENSIONS


def _is_clip(path: Path) -> bool:
    """Whether it is a video file, an .npz, or a folder of frames and nothing else."""
    if path.is_file():
        return path.suffix.lower() in CLIP_EXTENSIONS
    return path.is_dir() and bool(frame_files(path)) and not has_clips(path)


def _answers(
    opened: Run, files: Sequence[Path]
) -> Iterator[tuple[Path, Answer | None, str]]:
    readable, rows = [], []
    for file in files:
        try:
            readable.append(opened.pixels(file))
            rows.append((file, ""))
        except ImageError as error:
            rows.append((file, str(error)))
    answers = iter(opened.answers(torch.stack(readable)) if readable else ())
    for file, reason in rows:
        yield file, None if reason else next(answers), reason
