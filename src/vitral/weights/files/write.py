"""Write weights files: never a pickle, atomically, with reproducible bytes."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vitral.atomic_io import write_atomic
from vitral.errors import WeightsError
from vitral.weights.files.tensor_file import printable_path

FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""Earliest date of the zip format, so that equal arrays give equal bytes."""


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` atomically; views and shared tensors are written in full.

    Raises:
        WeightsError: the folder cannot be written or the disk is full.
    """
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        contiguous = tensor.detach().cpu().contiguous()
        address = contiguous.untyped_storage().data_ptr()
        plain[name] = contiguous.clone() if address in seen else contiguous
        seen.add(address)
    header = {"format": "pt", **(metadata or {})}
    _write(path, lambda file: save_sorted(file, plain, header))


def save_sorted(
    file: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write .safetensors whose metadata is in order, so equal models are equal files.

    safetensors writes the metadata in an order of chance (0.6).
    """
    save_file(tensors, file, metadata=dict(metadata))
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        content = json.loads(opened.read(length))
        content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        # Spaces at the end keep the length, and the tensors their alignment.
        if len(text) <= length:
            opened.seek(8)
            opened.write(text.ljust(length))


def write_npz(path: Path, arrays: Mapping[str, Tensor | np.ndarray]) -> None:
    """Write `arrays` atomically and uncompressed; bfloat16 becomes NumPy's `|V2`.

    Raises:
        WeightsError: the folder cannot be written, the disk is full, or an array is
            of objects.
    """

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                info = zipfile.ZipInfo(f"{name}.npy", FIRST_DAY)
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(
                        member, _as_numpy(array), version=(1, 0), allow_pickle=False
                    )

    _write(path, write)


def _as_numpy(array: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array
    plain = array.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view("V2")
    return plain.numpy()


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write_atomic(path, write)
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{printable_path(path)} cannot be written: {error}. Free some space or "
            "make the folder writable; what was there before is intact."
        ) from error
