"""Compare two run folders bit for bit.

Compared are all tensors of the last checkpoint and of model/, the position and ids of
all batches, metrics.jsonl without its timing fields, the split and the predictions.
Times, paths and the report are ignored.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vitral.errors import WeightsError
from vitral.training import TIMING_FIELDS, CheckpointStore


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """Numbers of things compared, and a sentence for each difference."""

    tensors: int
    lines: int
    """Lines of metrics.jsonl."""
    files: int
    """Files compared byte by byte."""
    differences: tuple[str, ...]
    """Empty for equal runs; the first difference in training order comes first."""


def diff_runs(a: Path, b: Path) -> RunDiff:
    """Compare two finished runs."""
    steps = [_last_step(folder) for folder in (a, b)]
    last = [
        CheckpointStore(f / "checkpoints").path(s)
        for f, s in zip((a, b), steps, strict=True)
    ]
    differences = []
    if steps[0] != steps[1]:
        differences.append(f"The last checkpoint is of step {steps[0]} and {steps[1]}.")
    lines = [_read_records(folder / "metrics.jsonl") for folder in (a, b)]
    differences += _diff_metrics(*lines)
    differences += _diff_state(*(folder / "state.json" for folder in last))
    pairs = list(_tensor_files(last[0], last[1]))
    pairs += list(_tensor_files(a / "model", b / "model"))
    tensors = 0
    for name, first, second in pairs:
        sentences, count = _diff_tensors(name, first, second)
        differences += sentences
        tensors += count
    sentences, files = _diff_files(a, b)
    return RunDiff(
        tensors=tensors,
        lines=len(lines[0]),
        files=files,
        differences=(*differences, *sentences),
    )


def _last_step(folder: Path) -> int:
    latest = CheckpointStore(folder / "checkpoints").latest()
    if latest.step is None:
        raise WeightsError(
            f"{folder} has no checkpoint to compare. {' '.join(latest.skipped)}"
            "Give the folder of a finished run."
        )
    return latest.step


def _read_records(file: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        {name: v for name, v in record.items() if name not in TIMING_FIELDS}
        for record in records
    ]


def _diff_metrics(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[str]:
    for line, (first, second) in enumerate(zip(a, b, strict=False), 1):
        names = [n for n in {**first, **second} if first.get(n) != second.get(n)]
        if names:
            name = names[0]
            return [
                f"metrics.jsonl differs first in line {line}, step "
                f"{first.get('step')}: `{name}` is {first.get(name)} and "
                f"{second.get(name)}."
            ]
    if len(a) != len(b):
        return [f"metrics.jsonl has {len(a)} and {len(b)} lines."]
    return []


def _diff_state(a: Path, b: Path) -> list[str]:
    first, second = (json.loads(file.read_bytes())["loop"] for file in (a, b))
    names = [
        name for name in {**first, **second} if first.get(name) != second.get(name)
    ]
    if "ids" in names:
        return ["The order of the examples differs: their ids have other hashes."]
    return [
        f"`{name}` of state.json is {first.get(name)} and {second.get(name)}."
        for name in names[:1]
    ]


def _tensor_files(a: Path, b: Path) -> Iterator[tuple[str, Path, Path]]:
    names = {path.name for folder in (a, b) for path in folder.glob("*.safetensors")}
    # The weights come first: the optimizer's state follows from them.
    for name in sorted(names, key=lambda name: (name != "model.safetensors", name)):
        yield f"{a.name}/{name}", a / name, b / name


def _diff_tensors(name: str, a: Path, b: Path) -> tuple[list[str], int]:
    """Return sentences on a pair of files, and the number of tensors in the first."""
    missing = [path for path in (a, b) if not path.is_file()]
    if missing:
        return [f"{missing[0]} is missing."], 0
    first, second = load_file(a), load_file(b)
    differing = [
        key
        for key in {**first, **second}
        if not _is_bit_equal(first.get(key), second.get(key))
    ]
    if not differing:
        return [], len(first)
    key = differing[0]
    return [
        f"{name}: {len(differing)} of {len(first)} tensors differ, first {key}"
        f"{_describe_difference(first.get(key), second.get(key))}."
    ], len(first)


def _is_bit_equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Compare bit for bit: 0.0 is not -0.0 here."""
    if a is None or b is None:
        return False
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_as_bytes(a), _as_bytes(b))


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _describe_difference(a: Tensor | None, b: Tensor | None) -> str:
    if a is None or b is None:
        return ", which only one of them has"
    if a.dtype != b.dtype or a.shape != b.shape:
        return f" ({a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)})"
    size = a.element_size()
    differs = (_as_bytes(a) != _as_bytes(b)).view(-1, size).any(1)
    index = int(differs.nonzero()[0])
    values = (float(t.reshape(-1)[index]) for t in (a, b))
    return f", element {index}: {' and '.join(f'{v:.9g}' for v in values)}"


def _diff_files(a: Path, b: Path) -> tuple[list[str], int]:
    """Return sentences on the split and the predictions, and the number of files."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (a, b)
        for path in (folder / "split.csv", *folder.glob("predictions/*"))
        if path.is_file()
    }
    differing = [
        name
        for name in sorted(names)
        if not (a / name).is_file()
        or not (b / name).is_file()
        or (a / name).read_bytes() != (b / name).read_bytes()
    ]
    return [f"{name} differs." for name in differing], len(names)
