"""What every objective's settings have in common: a name, and whether they ask labels.

A run keeps the name in its config.json and finds the settings' class by it among those
that derive from `ObjectiveConfig` here; nothing is imported by that name.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The settings of some objective; each objective derives its own."""

    NAME: ClassVar[str] = ""
    """The objective's word on the command line."""
    DEFAULT: ClassVar[str] = "supervised"
    """Whose settings they are where no name stands beside them."""
    LABELS: ClassVar[bool] = True
    """Whether the images need classes."""
