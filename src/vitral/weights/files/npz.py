""".npz files: zips of .npy members, from NumPy, JAX and the official ViT checkpoints.

Hand-written because `numpy.load` allocates before it checks the size. JAX's bfloat16 is
`V2` there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipInfo

import numpy as np
import torch
from torch import Tensor

from vitral.npy_header import read_npy_header
from vitral.weights.files.tensor_file import (
    TensorFile,
    TensorInfo,
    check_shape,
    one_line,
    printable_name,
)
from vitral.weights.files.zip_archive import ZIP_ERRORS, Archive

SUFFIX = ".npy"
CHUNK = 2**20
BFLOAT16 = np.dtype("V2")
"""NumPy's type of JAX's bfloat16: two bytes without a name."""
NAMES = (
    "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "complex64 complex128"
)
"""Types that NumPy and torch call by the same name."""
DTYPES = {np.dtype(name): getattr(torch, name) for name in NAMES.split()}
DTYPES[BFLOAT16] = torch.bfloat16


@dataclass(frozen=True, slots=True)
class _Member:
    info: ZipInfo
    dtype: np.dtype[Any]
    fortran: bool
    start: int
    """Bytes of the member's own header."""


class NpzFile(TensorFile):
    """An opened .npz; a member is unpacked when it is read."""

    format = "npz"

    def __init__(self, path: Path, archive: Archive) -> None:
        self._archive = archive
        self._members: dict[str, _Member] = {}
        entries = {}
        for info in archive.zip.infolist():
            name = info.filename.removesuffix(SUFFIX)
            entries[name], self._members[name] = self._open(info)
        super().__init__(path, entries)

    def _open(self, info: ZipInfo) -> tuple[TensorInfo, _Member]:
        wrong = f"member {printable_name(info.filename)}"
        try:
            with self._archive.zip.open(info) as stream:
                shape, fortran, dtype = read_npy_header(stream)
                start = stream.tell()
        except ZIP_ERRORS as error:
            self._archive.refuse_damaged(f"{wrong}: {one_line(error)}")
        if dtype.hasobject:
            self._archive.refuse(
                f"{wrong} holds pickled objects, which can run code when they are "
                "read. Save its numbers as a plain array"
            )
        native = dtype.newbyteorder("=")
        if native not in DTYPES:
            self._archive.refuse(
                f"{wrong} has the type {printable_name(str(dtype))}, which is no "
                "number of torch. Save it as float32"
            )
        reason = check_shape(shape, info.file_size - start, dtype.itemsize)
        if reason is not None:
            self._archive.refuse_damaged(f"{wrong} {reason}")
        entry = TensorInfo(shape, DTYPES[native])
        return entry, _Member(info, dtype, fortran, start)

    def _data(self, name: str) -> Tensor:
        entry, member = self._entries[name], self._members[name]
        raw = np.empty(entry.nbytes, np.uint8)
        try:
            with self._archive.zip.open(member.info) as stream:
                stream.read(member.start)
                self._fill(name, stream, raw)
        except ZIP_ERRORS as error:
            self._archive.refuse_damaged(
                f"member {printable_name(name)}{SUFFIX}: {one_line(error)}"
            )
        native = member.dtype.newbyteorder("=")
        array = raw.view(np.int16 if native == BFLOAT16 else member.dtype)
        if not array.dtype.isnative:
            array = array.astype(native)
        shape = entry.shape
        if member.fortran:
            array = np.ascontiguousarray(array.reshape(shape[::-1]).T)
        tensor = torch.from_numpy(array)
        if native == BFLOAT16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.reshape(shape)

    def _fill(self, name: str, stream: Any, raw: np.ndarray) -> None:
        """Read to the end, where zipfile compares the checksum."""
        target, done = raw.data, 0
        member = f"member {printable_name(name)}{SUFFIX}"
        while part := stream.read(CHUNK):
            if done + len(part) > len(target):
                self._archive.refuse_damaged(f"{member} is too long")
            target[done : done + len(part)] = part
            done += len(part)
        if done < len(target):
            self._archive.refuse_damaged(f"{member} ends early")
