"""An opened weights file: names and shapes at once, data on demand."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitral.errors import WeightsError

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")


class TensorFile(ABC):
    path: Path
    format: str
    metadata: dict[str, str]

    @abstractmethod
    def names(self) -> list[str]: ...

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def read(self, name: str) -> Tensor: ...


class MemoryFile(TensorFile):
    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.tensors = path, dict(tensors)
        self.format, self.metadata = "safetensors", {}

    def names(self) -> list[str]:
        return list(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def read(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{self.path}: tensor {name} has values that are not finite, so the "
                "model would answer NaN. Use an earlier checkpoint."
            )
        return tensor


def open_file(path: Path) -> TensorFile:
    if not path.is_file():
        raise WeightsError(
            f"No weights at {path}: give a .safetensors file, or a model folder that "
            "has model.safetensors."
        )
    if path.suffix.lower() in PICKLES:
        raise WeightsError(f"{path} is a pickle, which can run code when it is read.")
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path) as arrays:
            return MemoryFile(
                path, {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a readable safetensors file: {error}. It may be cut short "
            "or damaged; fetch it again and compare its sha256."
        ) from error
    return MemoryFile(path, tensors)


def with_names(file: TensorFile, names: Mapping[str, str]) -> TensorFile:
    return MemoryFile(file.path, {new: file.read(old) for new, old in names.items()})
