"""Read TFRecord files of tf.train.Example without TensorFlow: the format of DMLab.

A record is its length (8 bytes), a checksum of it (4), the content, and a checksum (4).
The content is a protocol buffer: Example.features (1) .feature (1), a map from a name
(1) to a Feature (2) with a BytesList (1) or an Int64List (3) of values (1).
Checksums are not compared: a damaged picture fails when it is decoded.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vitral.errors import DataError

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_HEADER = struct.Struct("<QI")


@dataclass(frozen=True, slots=True)
class TFRecord:
    """One example of a file."""

    offset: int
    """Byte at which the record starts, for `read_record`."""
    features: dict[str, bytes | int]


def read_records(path: Path) -> Iterator[TFRecord]:
    """Yield the records of a file in order."""
    with _open(path) as file:
        size = path.stat().st_size
        offset = 0
        while offset < size:
            content = _read_content(file, path, offset)
            yield TFRecord(offset, _parse_example(content, path, offset))
            offset += _HEADER.size + len(content) + 4


def read_record(path: Path, offset: int) -> dict[str, bytes | int]:
    """Return the features of the record at a byte offset."""
    with _open(path) as file:
        return _parse_example(_read_content(file, path, offset), path, offset)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _read_content(file: BinaryIO, path: Path, offset: int) -> bytes:
    file.seek(offset)
    header = file.read(_HEADER.size)
    available = path.stat().st_size - offset - _HEADER.size - 4
    length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else available + 1
    # Before reading: a wrong length may exceed the memory.
    if length > available:
        raise DataError(
            f"{path} is cut off, or not a TFRecord file: the record at byte {offset} "
            "does not end in it. Fetch the file again."
        )
    return file.read(length)


def _parse_example(content: bytes, path: Path, offset: int) -> dict[str, bytes | int]:
    features: dict[str, bytes | int] = {}
    try:
        for message in _iter_fields(content, 1):
            for entry in _iter_fields(message, 1):
                (name,) = _iter_fields(entry, 1)
                (feature,) = _iter_fields(entry, 2)
                features[name.decode()] = _parse_value(feature)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} holds something else than a tf.train.Example at byte {offset}. "
            "Fetch the file again."
        ) from error
    return features


def _parse_value(feature: bytes) -> bytes | int:
    """Return the only value of a feature."""
    for values in _iter_fields(feature, 1):
        (value,) = _iter_fields(values, 1)
        return value
    for values in _iter_fields(feature, 3):
        # A single value is a varint, or a packed list of one.
        packed = list(_iter_fields(values, 1))
        return _read_varint(packed[0], 0)[0] if packed else _read_varint(values, 1)[0]
    raise ValueError("neither bytes nor whole numbers")


def _iter_fields(message: bytes, field_number: int) -> Iterator[bytes]:
    """Yield the contents of the length-delimited fields with this number."""
    offset = 0
    while offset < len(message):
        tag, offset = _read_varint(message, offset)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, offset = _read_varint(message, offset)
        elif wire_type in (_FIXED64, _FIXED32):
            offset += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _LENGTH:
            length, offset = _read_varint(message, offset)
            if offset + length > len(message):
                raise ValueError("a field that does not end")
            if number == field_number:
                yield message[offset : offset + length]
            offset += length
        else:
            raise ValueError(f"wire type {wire_type}")


def _read_varint(message: bytes, offset: int) -> tuple[int, int]:
    """Return the integer at `offset` and the offset behind it."""
    value = shift = 0
    while True:
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, offset
