"""safetensors files: an 8-byte length, a JSON header, then the tensors (memory-mapped).

The library reads the data and checks that they fill the file without overlaps. The
header is also parsed here: the library does not notice a duplicate name.
"""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitral.errors import WeightsError
from vitral.weights.files.tensor_file import (
    ALIGNMENT,
    TensorFile,
    TensorInfo,
    check_shape,
    file_stamp,
    format_int,
    one_line,
    printable_name,
    printable_path,
    read_bytes,
)

MAX_HEADER_SIZE = 2**24
"""Most bytes of JSON that are parsed: about 150,000 tensors."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class SafetensorsFile(TensorFile):
    """An opened safetensors file."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self._mark = file_stamp(path)
        entries, metadata = read_header(path)
        super().__init__(path, entries, metadata)
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(path, one_line(error)) from error

    def _data(self, name: str) -> Tensor:
        entry = self._entries[name]
        # Pages are aligned, so an odd place in the file is an odd one in memory.
        if entry.start % ALIGNMENT:
            raw = read_bytes(self.path, entry.start, entry.nbytes, self._mark)
            return raw.view(entry.dtype).reshape(entry.shape)
        try:
            return self._file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(
                self.path, f"tensor {printable_name(name)}: {one_line(error)}"
            ) from error


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors and the metadata that the header of `path` claims."""
    with path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length <= size - 8:
            raise _unreadable(
                path, f"its header claims {length} bytes of a file of {size}"
            )
        if length > MAX_HEADER_SIZE:
            raise _unreadable(
                path, f"its header of {length} bytes is over {MAX_HEADER_SIZE}"
            )
        text = file.read(length)
    try:
        header = json.loads(
            text, object_pairs_hook=lambda p: _reject_duplicates(path, p)
        )
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"its header is no JSON: {one_line(error)}") from error
    if not isinstance(header, dict):
        raise _unreadable(path, "its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _unreadable(path, "its __metadata__ is not text under names")
    first = 8 + length
    entries = {
        name: _parse_entry(path, name, fields, first, size - first)
        for name, fields in header.items()
    }
    return entries, metadata


def _parse_entry(
    path: Path, name: str, fields: Any, first: int, room: int
) -> TensorInfo:
    wrong = f"tensor {printable_name(name)}"
    if not isinstance(fields, dict) or fields.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise _unreadable(path, f"{wrong} has not just dtype, shape and data_offsets")
    if not isinstance(fields["dtype"], str) or fields["dtype"] not in DTYPES:
        raise WeightsError(
            f"{printable_path(path)}: {wrong} has the precision "
            f"{printable_name(fields['dtype'])}, "
            f"which is not one of {', '.join(DTYPES)}. Convert it to one of these."
        )
    offsets, shape = fields["data_offsets"], fields["shape"]
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int for offset in offsets)
        or not 0 <= offsets[0] <= offsets[1] <= room
    ):
        raise _unreadable(
            path,
            f"{wrong} claims bytes that are not among the {format_int(room)} of data",
        )
    dtype = DTYPES[fields["dtype"]]
    size = tuple(shape) if isinstance(shape, list) else shape
    reason = check_shape(size, offsets[1] - offsets[0], dtype.itemsize)
    if reason is not None:
        raise _unreadable(path, f"{wrong} {reason}")
    return TensorInfo(size, dtype, first + offsets[0])


def _reject_duplicates(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(n for n, _ in pairs if n in seen or seen.add(n))  # type: ignore[func-returns-value]
        raise WeightsError(
            f"{printable_path(path)}: the name {printable_name(twice)} is in the "
            "header twice, so "
            "two programs could read two models. Write the file again with one of them."
        )
    return entries


def _unreadable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{printable_path(path)} is not a readable safetensors file: {reason}. It may "
        "be cut short or damaged; fetch it again and compare its sha256."
    )
