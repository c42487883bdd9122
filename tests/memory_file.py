"""Tensors in memory, with the interface of a weights file."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vitral.weights.files import TensorFile, TensorInfo


class MemoryFile(TensorFile):
    """Tensors in memory, with the interface of a file."""

    format = "memory"

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        path: Path = Path("memory"),
        metadata: dict[str, str] | None = None,
    ) -> None:
        entries = {n: TensorInfo(tuple(t.shape), t.dtype) for n, t in tensors.items()}
        super().__init__(path, entries, metadata)
        self._tensors = dict(tensors)

    def _data(self, name: str) -> Tensor:
        return self._tensors[name]
