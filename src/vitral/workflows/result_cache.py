"""Cache results on disk, one JSON file per entry: an interrupted table resumes.

An entry holds its inputs; if these differ or the file is damaged, it is recomputed.
Hand-written: people can read the JSON, and keys are values, not pickled arguments.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_json
from vitral.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A finished entry."""

    result: dict[str, Any]
    """Plain data for JSON."""
    seconds: float
    """Seconds that the computation took, now or earlier."""
    fresh: bool
    """True if it was computed now."""


@dataclass(frozen=True)
class ResultCache:
    """Folder of finished entries."""

    folder: Path

    def get(self, name: str, inputs: dict[str, Any]) -> CachedResult | None:
        """Return the entry `name` if it was computed from `inputs`, else None."""
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
        """Return the cached entry `name`, or compute and store it.

        Args:
            name: unique in the cache; may contain `/`.
            inputs: plain data, all that decides the result: weights, data, settings.
            compute: returns plain data for JSON.
        """
        cached = self.get(name, inputs)
        if cached is not None:
            return cached
        started = time.monotonic()
        result = compute()
        seconds = round(time.monotonic() - started, 2)
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"about": inputs, "seconds": seconds, "result": result})
        return CachedResult(result, seconds, True)

    def _file(self, name: str) -> Path:
        parts = name.split("/")
        if not all(parts) or any(part in (".", "..") for part in parts):
            raise ConfigError(f"A cell cannot be called {name!r}.")
        return self.folder.joinpath(*parts[:-1], f"{parts[-1]}.json")
