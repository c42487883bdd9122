"""Run folders in tests: train without a report, read the log."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vitral.training import TIMING_FIELDS


@contextmanager
def without_report() -> Iterator[None]:
    """Skip the report of a training, which takes longer than a tiny training."""
    finalize = "vitral.workflows.train.finalize"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{finalize}.write_report", lambda out, data: out)
        patch.setattr(f"{finalize}.compute_report_maps", lambda *arguments: None)
        yield


def records(run: Path) -> list[dict[str, Any]]:
    """Every record of metrics.jsonl."""
    return [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def untimed(run: Path) -> list[dict[str, Any]]:
    """The records without the fields that depend on speed."""
    return [
        {name: value for name, value in record.items() if name not in TIMING_FIELDS}
        for record in records(run)
    ]


def count_records(run: Path) -> int:
    """Complete lines of metrics.jsonl, 0 before it exists."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
