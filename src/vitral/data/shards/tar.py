"""List the members of a tar file from its headers; nothing is extracted.

Plain, GNU and POSIX (pax) headers (pubs.opengroup.org, "ustar Interchange Format").
Hand-written: Python's tarfile follows links and fails on a file that was cut.
"""

import io
import os
from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK = 512
MAX_NAME_BYTES = 65_536
"""Largest size in bytes of a long name or of pax records."""
_WINDOW = 16_384
_END = b"\0" * BLOCK
_REGULAR = b"0\x007"
_UNSUPPORTED_TYPES = {
    b"1": "a hard link; links are not followed",
    b"2": "a symbolic link; links are not followed",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe (FIFO)",
    b"S": "a sparse file, which is not supported; pack it with `tar` without --sparse",
}
_WITHOUT_DATA = b"123456"


class TarMember(NamedTuple):
    """A regular file inside a tar file."""

    name: str
    """Path without a leading "./"."""
    offset: int
    """Offset of the first data byte in the tar file."""
    size: int
    """Size in bytes."""


@dataclass(kw_only=True)
class TarContents:
    """Members of a tar file by its headers."""

    members: list[TarMember] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each unusable member."""
    fault: str = ""
    """Reason why the file was not read to its end; "" if it was."""


class _TarError(Exception):
    """A header that cannot be read; reading stops there."""


def read_contents(descriptor: int) -> TarContents:
    """Read the headers of an open tar file.

    Only headers are read. No content of the file raises, and every returned member
    lies inside the file.
    """
    contents = TarContents()
    headers = _Headers(descriptor)
    try:
        _read_members(headers, contents)
    except _TarError as fault:
        contents.fault = str(fault)
    return contents


class _Headers(io.BufferedReader):
    """An open file that is read by offset, through a small buffer."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(io.FileIO(descriptor, closefd=False), _WINDOW)
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, count: int) -> bytes:
        """Read `count` bytes; fewer at the end of the file."""
        self.seek(offset)
        return self.read(count)


def _read_members(headers: _Headers, contents: TarContents) -> None:
    offset = 0
    long_name = ""
    records: dict[str, str] = {}
    common: dict[str, str] = {}
    while True:
        block = headers.read_at(offset, BLOCK)
        if not block or block == _END:
            _check_end(headers, contents, offset)
            return
        flag, size = _parse_header(block, offset)
        data = offset + BLOCK
        if flag in b"LKxg":
            content = _read_extension(headers, data, size)
            if flag == b"L":
                long_name = _decode_text(content.partition(b"\0")[0])
            elif flag == b"x":
                records = _parse_pax(content, data)
            elif flag == b"g":
                common |= _parse_pax(content, data)
            offset = data + _round_up_to_block(size)
            continue
        name = long_name or _parse_name(block)
        if records or common:
            records = common | records
            name = records.get("path") or name
            if "size" in records:
                size = _parse_pax_size(records["size"], offset)
            if any(key.startswith("GNU.sparse") for key in records):
                flag = b"S"
        if flag in _WITHOUT_DATA:
            size = 0
        long_name, records = "", {}
        offset = data + _round_up_to_block(size)
        _add_member(
            contents, TarMember(name.removeprefix("./"), data, size), flag, headers.size
        )
        if data + size > headers.size:
            raise _TarError(
                f"the file is cut off in {_printable_name(name)}: {data + size:,} "
                f"bytes are needed, {headers.size:,} are there"
            )


def _add_member(
    contents: TarContents, member: TarMember, flag: bytes, available: int
) -> None:
    """Add a member, or record why it is unusable."""
    name = member.name
    if flag == b"5" or (flag in _REGULAR and name.endswith("/")):
        return
    reason = _UNSUPPORTED_TYPES.get(flag, "")
    if not reason and flag not in _REGULAR:
        reason = f"a member of the unknown type {flag!r}"
    if not reason:
        reason = _name_problem(name)
    if reason:
        contents.ignored.append((_printable_name(name), reason))
    elif member.offset + member.size <= available:
        contents.members.append(member)


def _name_problem(name: str) -> str:
    if not name:
        return "without a name"
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        return "its name leads out of the archive"
    if not name.isprintable():
        return "its name is not UTF-8, or holds control characters"
    return ""


def _check_end(headers: _Headers, contents: TarContents, offset: int) -> None:
    """Check that the file ends with an end mark and padding."""
    if not contents.members and offset >= headers.size:
        contents.fault = "the file is empty" if not offset else ""
    if offset >= headers.size:
        contents.fault = contents.fault or (
            "the file ends without an end mark; it may have been cut between two "
            "members"
        )
        return
    # Writers pad to 10 KB by default, and to 1 MB at most.
    if headers.read_at(offset, 1 << 20).strip(b"\0"):
        contents.fault = (
            f"there is something behind the end mark at byte {offset:,}, such as a "
            "second tar file, which is not read"
        )


def _parse_header(block: bytes, offset: int) -> tuple[bytes, int]:
    """Return type and size from a header, after checking its checksum."""
    if len(block) < BLOCK:
        raise _TarError(f"the file is cut off in the header at byte {offset:,}")
    checksum = block[148:156]
    if _parse_number(checksum) != sum(block) - sum(checksum) + 8 * 32:
        raise _TarError(f"the header at byte {offset:,} is damaged (wrong checksum)")
    size = _parse_number(block[124:136])
    if size is None or size < 0:
        raise _TarError(f"the header at byte {offset:,} is damaged (no size)")
    return block[156:157], size


def _parse_number(field: bytes) -> int | None:
    """Parse octal digits or GNU's base-256 form; return None if it is neither."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else -1
    text = field.partition(b"\0")[0].strip()
    if text.strip(b"01234567"):
        return None
    return int(text, 8) if text else 0


def _parse_name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    # Only POSIX has the prefix: GNU stores times there.
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return _decode_text(name)


def _read_extension(headers: _Headers, offset: int, size: int) -> bytes:
    if size > MAX_NAME_BYTES:
        raise _TarError(
            f"the header at byte {offset - BLOCK:,} is damaged (a name of {size:,} "
            "bytes)"
        )
    content = headers.read_at(offset, size) if size else b""
    if len(content) < size:
        raise _TarError(f"the file is cut off in the long name at byte {offset:,}")
    return content


def _parse_pax(content: bytes, offset: int) -> dict[str, str]:
    """Parse records of the form "LENGTH KEY=VALUE\\n"; keep those that are used.

    In linear time: 64 kB may hold 10,000 records, and a file many of these.
    """
    records: dict[str, str] = {}
    at, last = 0, len(content.rstrip(b"\0"))
    while at < last:
        space = content.find(b" ", at, at + 7)
        digits = content[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else 0
        equals = content.find(b"=", space + 1, max(end - 1, 0))
        if equals < 0 or content[end - 1 : end] != b"\n":
            raise _TarError(f"the pax records at byte {offset:,} are damaged")
        key = content[space + 1 : equals]
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            records[_decode_text(key)] = _decode_text(content[equals + 1 : end - 1])
        at = end
    return records


def _parse_pax_size(text: str, offset: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _TarError(f"the pax records of byte {offset:,} are damaged (no size)")
    return int(text)


def _round_up_to_block(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _decode_text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _printable_name(name: str) -> str:
    """Escape a name of any bytes for a message."""
    safe = name.encode("utf-8", "backslashreplace").decode()
    return safe if safe.isprintable() else ascii(safe)
