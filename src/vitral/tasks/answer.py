"""Answer of a model about one picture."""

import math
from abc import ABC, abstractmethod
from typing import Any

from PIL import Image


class Answer(ABC):
    """Answer for a person about one picture; the answers of a task have one type."""

    explained_output: int = 0
    """Index of the output that a map of this answer explains."""

    @abstractmethod
    def row(self) -> dict[str, Any]:
        """Return the answer as plain data, by the columns of `Task.row_types`."""

    def files(self) -> dict[str, bytes]:
        """Return content by suffix, such as `.png`, for answers that are no row."""
        return {}

    def draw(self, picture: Image.Image) -> Image.Image:
        """Return the upright picture with the answer on it; unchanged by default."""
        return picture

    def is_finite(self) -> bool:
        """Return whether JSON can represent the answer."""
        return all(map(math.isfinite, _numbers(self.row())))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    return [value] if isinstance(value, float) else []
