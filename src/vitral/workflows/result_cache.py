"""A table that is computed cell by cell; a finished cell is kept and not repeated.

Each cell is one JSON file, written whole or not at all, with a description of all that
decided its result. A file that describes something else, or that is damaged, is
computed anew.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vitral.atomic_io import write_json
from vitral.errors import ConfigError


class CachedResult(NamedTuple):
    """A finished cell."""

    result: dict[str, Any]
    """Plain data."""
    seconds: float
    """That computing it took, whenever that was."""
    fresh: bool
    """Whether it was computed now."""


@dataclass(frozen=True)
class ResultCache:
    """The finished cells of a table, in a folder."""

    folder: Path

    def get(self, name: str, inputs: dict[str, Any]) -> CachedResult | None:
        """The cell `name` if it was finished for `inputs`; None if not."""
        try:
            text = self._file(name).read_text(encoding="utf-8")
            stored = json.loads(text)
            if stored["about"] != json.loads(json.dumps(inputs)):
                return None
            return CachedResult(dict(stored["result"]), float(stored["seconds"]), False)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def get_or_compute(
        self, name: str, inputs: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> CachedResult:
        """The cell `name`: kept from an earlier time, or computed now and kept.

        Args:
            name: unique in the table; may hold `/`.
            inputs: plain data, all that decides the result: weights, data, settings.
            compute: computes plain data for JSON.
        """
        kept = self.get(name, inputs)
        if kept is not None:
            return kept
        started = time.monotonic()
        found = compute()
        seconds = round(time.monotonic() - started, 2)
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"about": inputs, "seconds": seconds, "result": found})
        return CachedResult(found, seconds, True)

    def _file(self, name: str) -> Path:
        parts = name.split("/")
        if not all(parts) or any(part in (".", "..") for part in parts):
            raise ConfigError(f"A cell cannot be called {name!r}.")
        return self.folder.joinpath(*parts[:-1], f"{parts[-1]}.json")
