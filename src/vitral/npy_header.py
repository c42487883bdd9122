"""Read the header of a .npy array: shape, order and type, and nothing else.

Hand-written because NumPy's reader evaluates the header as a Python literal: hostile
ones raise seven kinds of exceptions, among them MemoryError and TokenError. NumPy 1.0
and 2.0 headers are a dictionary of three keys (numpy.lib.format), read by a grammar.
"""

import math
import re
import struct
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

MAX_HEADER_SIZE = 10_000
"""Most bytes of a header: NumPy's own limit."""
MAX_SIDE = 2**62
_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I"}
"""Format of the header's length, by version."""
_ITEM = re.compile(
    r"""\s*(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*(?:
        (?P<q>['"])(?P<descr>[<>=|]?[a-zA-Z]\d{0,4})(?P=q)
        | (?P<flag>True|False)
        | \(\s*(?P<shape>(?:\d{1,19}L?\s*,\s*)*(?:\d{1,19}L?)?)\s*\)
    )\s*(?:,|(?=\}))""",
    re.VERBOSE,
)


@runtime_checkable
class Readable(Protocol):
    """An opened file, or a member of an archive."""

    def read(self, size: int = -1, /) -> bytes: ...


class NpyHeader(NamedTuple):
    """Header that stands before the values of an array."""

    shape: tuple[int, ...]
    fortran_order: bool
    """True: the first axis is the fastest."""
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(stream: Readable) -> NpyHeader:
    """Read the header of a stream at its start; the values follow.

    Raises:
        ValueError: it is no header that this grammar knows; the message is the reason.
    """
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as a NumPy array")
    version = stream.read(2)
    length = _LENGTHS.get(version)
    if length is None:
        raise ValueError(
            f"NumPy format {'.'.join(map(str, version))} is not 1.0 or 2.0"
        )
    size = stream.read(struct.calcsize(length))
    if len(size) < struct.calcsize(length):
        raise ValueError("its header is cut short")
    (count,) = struct.unpack(length, size)
    if count > MAX_HEADER_SIZE:
        raise ValueError(
            f"its header has {count:,} bytes, more than {MAX_HEADER_SIZE:,}"
        )
    text = stream.read(count)
    if len(text) < count:
        raise ValueError("its header is cut short")
    return parse_npy_header(text.decode("latin-1"))


def parse_npy_header(text: str) -> NpyHeader:
    """Parse `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.

    Raises:
        ValueError: it is something else, such as a structured type.
    """
    body = text.strip()
    values: dict[str, re.Match[str]] = {}
    position = 1
    while body[:1] == "{" and (item := _ITEM.match(body, position)):
        if item["key"] in values:
            raise ValueError(f"its header names {item['key']} twice")
        values[item["key"]] = item
        position = item.end()
    if body[position:].strip() != "}" or len(values) != 3:
        raise ValueError(
            "its header is not NumPy's descr, fortran_order and shape of a plain array"
        )
    descr, flag = values["descr"]["descr"], values["fortran_order"]["flag"]
    sides = values["shape"]["shape"]
    if descr is None or flag is None or sides is None:
        raise ValueError("a value of its header has the wrong type")
    shape = tuple(int(side.strip("L ")) for side in sides.split(",") if side.strip())
    if math.prod(shape) > MAX_SIDE:
        raise ValueError(f"its header claims {math.prod(shape):,} values")
    if len(shape) > 32:
        raise ValueError(f"its header claims {len(shape)} axes, more than 32")
    try:
        dtype = np.dtype(descr)
    except TypeError as error:
        raise ValueError(
            f"its header names the type {descr!r}, which is none"
        ) from error
    return NpyHeader(shape, flag == "True", dtype)
