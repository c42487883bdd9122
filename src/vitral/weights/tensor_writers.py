"""Writing tensors to a file: safetensors or plain .npz, each atomically."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from vitral.files import write_atomic


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomic(path, lambda file: save_file(whole, file, metadata=dict(metadata)))


def write_npz(path: Path, tensors: Mapping[str, Tensor]) -> None:
    whole = {name: tensor.numpy() for name, tensor in tensors.items()}

    def write(file):
        with open(file, "wb") as stream:
            np.savez(stream, **whole)

    write_atomic(path, write)
