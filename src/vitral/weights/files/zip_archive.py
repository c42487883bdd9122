"""Zip archives of .npz and torch.save, checked before anything is unpacked."""

import struct
import zipfile
from pathlib import Path
from typing import NoReturn
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from vitral.errors import WeightsError
from vitral.weights.files.tensor_file import (
    format_int,
    one_line,
    printable_name,
    printable_path,
)

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and lengths of name and extra field before a member's data."""
END = struct.Struct("<4s4xHHII")
END_SIZE, MAX_COMMENT_LENGTH = 22, 65535
DEFLATE_LIMIT = 1032
"""Most bytes that deflate can make out of one."""
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.zlib.error,  # type: ignore[attr-defined]
)
"""Exceptions of zipfile for damaged files."""


class Archive:
    """A zip file whose members are separate, complete, unique and not encrypted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        try:
            self.zip = ZipFile(path)
        except ZIP_ERRORS as error:
            self.refuse_damaged(one_line(error))
        self.members = {info.filename: info for info in self.zip.infolist()}
        self._check_directory()
        for info in self.zip.infolist():
            self._check(info)

    def _check_directory(self) -> None:
        seen: set[str] = set()
        for info in self.zip.infolist():
            if info.filename in seen:
                self.refuse(
                    f"it has two members {printable_name(info.filename)}, so two "
                    "programs could read two models. Write it again with one of them"
                )
            seen.add(info.filename)
        if (claimed := self._declared_count()) not in (None, len(seen)):
            self.refuse_damaged(f"it claims {claimed} members but lists {len(seen)}")
        ordered = sorted(self.zip.infolist(), key=lambda info: info.header_offset)
        ends = [info.header_offset for info in ordered[1:]] + [self.zip.start_dir]
        for info, end in zip(ordered, ends, strict=True):
            header = LOCAL_HEADER.size + len(info.orig_filename)
            last = info.header_offset + header + info.compress_size
            if info.header_offset < 0 or last > end:
                self.refuse_damaged(
                    f"member {printable_name(info.filename)} begins before the file, "
                    "runs into the next one or past the end"
                )

    def _declared_count(self) -> int | None:
        with self.path.open("rb") as file:
            file.seek(max(0, self.size - END_SIZE - MAX_COMMENT_LENGTH))
            tail = file.read()
        offset = tail.rfind(b"PK\5\6")
        if offset < 0 or offset + END_SIZE > len(tail):
            return None
        count = END.unpack_from(tail, offset)[2]
        return None if count == 0xFFFF else count

    def _check(self, info: ZipInfo) -> None:
        name = printable_name(info.filename)
        if info.flag_bits & 1:
            self.refuse(f"member {name} is encrypted. Give the file without a password")
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            self.refuse(
                f"member {name} is compressed by a method other than deflate. Write "
                "it again uncompressed"
            )
        limit = info.compress_size
        if info.compress_type == ZIP_DEFLATED:
            limit = limit * DEFLATE_LIMIT + 64
        if info.file_size > limit:
            self.refuse_damaged(
                f"member {name} claims {format_int(info.file_size)} bytes but its "
                f"{format_int(info.compress_size)} in the file cannot hold more than "
                f"{format_int(limit)}"
            )

    def data_offset(self, info: ZipInfo) -> int:
        """Return the offset of a stored member's bytes in the file."""
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            head = file.read(LOCAL_HEADER.size)
        if len(head) < LOCAL_HEADER.size:
            self.refuse_damaged(f"member {printable_name(info.filename)} is not there")
        signature, name, extra = LOCAL_HEADER.unpack(head)
        offset = info.header_offset + LOCAL_HEADER.size + name + extra
        if signature != b"PK\3\4" or offset + info.file_size > self.zip.start_dir:
            self.refuse_damaged(
                f"member {printable_name(info.filename)} is not where it should be"
            )
        return offset

    def refuse(self, reason: str) -> NoReturn:
        """Raise a WeightsError for a file that is intact but not acceptable."""
        raise WeightsError(f"{printable_path(self.path)}: {reason}.")

    def refuse_damaged(self, reason: str) -> NoReturn:
        """Raise a WeightsError for a damaged file."""
        raise WeightsError(
            f"{printable_path(self.path)} is not a readable archive: {reason}. It may "
            "be cut short or damaged; fetch it again and compare its sha256."
        )
