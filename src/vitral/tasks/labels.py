"""Outputs of a head."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Outputs of a head, in order, with all that a task stores beside a model."""

    names: tuple[str, ...]

    def extra(self) -> dict[str, Any]:
        """Return plain data for the config.json of a model."""
        return {}
