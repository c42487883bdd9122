"""Reader of the files of a run folder; only `config.json` is required."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from vitral.document import inspection_store
from vitral.document.inspection_store import StoredInspection
from vitral.errors import ConfigError
from vitral.json_file import check_schema, parse_json, read_object, shorten
from vitral.training.log import NO_MONITOR

R = TypeVar("R")
"""Result of a split."""
SPLIT_ORDER = ("test", "val", "train")
SCHEMAS: dict[str, Any] = {
    "data.json": {
        "name": (str, None),
        "root": (str, None),
        "classes": ([str], None),
        "counts": ({str: {str: int}}, None),
        "sizes": ({str: int}, None),
        "labels": ({str: int}, None),
        "without_label": ({str: int}, None),
        "bad": ([{str: (str, int, None)}], None),
        "ignored": ([{str: (str, int, None)}], None),
        "notes": ([str], None),
        "fingerprint": (str, None),
    }
}
"""Types of the values that a page shows, by the file."""
MOST = 1e18
"""No number of a result is as large."""
MOST_COMMAND = 20_000
"""Characters of command.txt that are shown."""
METRICS = {"event": str, "step": int, "epoch": float, "text": str, "split": str}
"""Types of the keys of a line of metrics.jsonl; of the others numbers are drawn."""


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One line of metrics.jsonl; `line` is its index from 0."""

    line: int
    row: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunFolder(Generic[R]):
    """The content of a run folder; None or empty where a file is missing."""

    path: Path
    config: dict[str, Any]
    command: str
    environment: dict[str, Any] | None
    data: dict[str, Any] | None
    model: dict[str, Any] | None
    metrics: tuple[MetricLine, ...]
    results: dict[str, R]
    """By split, in the order of the report."""
    inspection: StoredInspection | None
    """Maps and distances of the model's attention."""
    problems: tuple[str, ...]
    """Sentences about lines that were skipped while reading."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def headline_split(self) -> str | None:
        """Split that the report shows first; None without any result."""
        return next(iter(self.results), None)

    @property
    def selection_splits(self) -> set[str]:
        """Splits measured during training, by which the best model was chosen."""
        loop = self.config.get("loop")
        monitor = loop.get("monitor") if isinstance(loop, dict) else None
        if monitor == NO_MONITOR and not self._head_choice():
            return set()
        measured = {str(line.row.get("split")) for line in self.events("eval")}
        return measured or {"val"}

    def _head_choice(self) -> dict[str, Any]:
        """Return what val said of each head; empty if it chose none."""
        block = (self.model or {}).get("vitral")
        head = block.get("head") if isinstance(block, dict) else None
        shares = head.get("val") if isinstance(head, dict) else None
        return shares if isinstance(shares, dict) else {}

    def setting(self, name: str) -> str:
        """Return a top-level setting, or its `name` or `path`, as text; or nothing."""
        value = self.config.get(name)
        if isinstance(value, dict):
            value = value.get("name") or value.get("path")
        return "" if value is None else str(value)

    @property
    def model_name(self) -> str:
        """Name of the model in its folder, else in the settings; empty if unset."""
        block = (self.model or {}).get("vitral")
        name = block.get("model") if isinstance(block, dict) else None
        return str(name or self.setting("model"))

    def read_object(self, name: str) -> dict[str, Any] | None:
        """Return the JSON object of a file; None without the file.

        Raises:
            ConfigError: it is not valid JSON, or no object.
        """
        return _read_object(self.path / name)

    def read_bytes(self, name: str) -> bytes | None:
        """Return the content of a file; None without it."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def table(self, split: str) -> Path:
        """Return the place of the table with a row an example."""
        return self.path / "predictions" / f"{split}.csv"

    def events(self, event: str) -> list[MetricLine]:
        """Return the metric lines of one event, in order."""
        return [line for line in self.metrics if line.row.get("event") == event]


def read_run_folder(
    folder: Path, read_result: Callable[[Mapping[str, Any]], R]
) -> RunFolder[R]:
    """Read a run folder.

    Args:
        read_result: reader of a stored result.

    Raises:
        ConfigError: it is not a run folder, or one of its files is damaged.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} is not a run folder: it has no config.json. Give the folder "
            "that `vitral train --out` wrote."
        )
    metrics, problems = _read_metrics(folder / "metrics.jsonl")
    results = {
        path.stem: _read_result(path, read_result)
        for path in sorted((folder / "predictions").glob("*.json"))
    }
    command = folder / "command.txt"
    return RunFolder(
        path=folder,
        config=_read_object(folder / "config.json") or {},
        command=_read_text(command)[:MOST_COMMAND].strip(),
        environment=_read_object(folder / "environment.json"),
        data=_read_object(folder / "data.json"),
        model=_read_object(folder / "model" / "config.json"),
        metrics=metrics,
        results={split: results[split] for split in sorted(results, key=_split_rank)},
        inspection=inspection_store.read(
            folder, _read_object(folder / inspection_store.FILE)
        ),
        problems=problems,
    )


def result_file(split: str) -> str:
    """Return the file of a split's result, relative to the run folder."""
    return f"predictions/{split}.json"


def _split_rank(split: str) -> tuple[int, str]:
    in_order = split in SPLIT_ORDER
    return (SPLIT_ORDER.index(split) if in_order else len(SPLIT_ORDER), split)


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_object(path, ConfigError, "Restore the file or train again.")
    if path.name in SCHEMAS:
        check_schema(path, value, SCHEMAS[path.name], ConfigError)
    return value


def _read_result(path: Path, read_result: Callable[[Mapping[str, Any]], R]) -> R:
    try:
        value = _read_object(path) or {}
        _require_small(value, "")
        return read_result(value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_text(path: Path) -> str:
    """Return the text of a file, with a mark for bytes that are none; or nothing."""
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _require_small(value: Any, at: str) -> None:
    """Refuse numbers that no measurement has, and that a plot cannot hold."""
    if isinstance(value, dict | list):
        keys = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in keys:
            _require_small(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, int | float) and not -MOST < value < MOST:
        raise ConfigError(
            f"`{at}` is {shorten(value)}, which is no measured number. Measure the "
            "run again with `vitral eval`."
        )


def _read_metrics(path: Path) -> tuple[tuple[MetricLine, ...], tuple[str, ...]]:
    """Read the lines; name and skip one that was cut off when the machine stopped."""
    lines, problems = [], []
    for index, text in enumerate(_read_text(path).splitlines()):
        if not text.strip():
            continue
        try:
            row = parse_json(text)
            check_schema(path, row, METRICS, ConfigError)
        except (ValueError, ConfigError):
            row = None
        if isinstance(row, dict):
            lines.append(MetricLine(index, row))
        else:
            problems.append(
                f"Line {index + 1} of metrics.jsonl could not be read and was skipped."
            )
    return tuple(lines), tuple(problems)
