"""Checkpoints of torch.save: a pickle and storages, in a zip or one after the other."""

import re
import struct
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZIP_STORED

import torch
from torch import Tensor

from vitral.errors import WeightsError
from vitral.weights.files.pickle_reader import View, read_structure
from vitral.weights.files.tensor_file import (
    ALIGNMENT,
    TensorFile,
    TensorInfo,
    file_stamp,
    format_int,
    one_line,
    printable_name,
    printable_path,
    read_bytes,
)
from vitral.weights.files.zip_archive import ZIP_ERRORS, Archive

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""First two pickles of torch.save's format before 1.6."""
PICKLE = "data.pkl"
MAX_PICKLE_SIZE = 2**26
MAX_NESTING = 4
"""Dicts around a state dict: {"state": {"model": ...}} has two."""
MAX_ITEMS = 1_000_000
MAX_KEY_LENGTH = 1000
"""Characters of a name, the keys of the dicts around it included."""
SEPARATOR = "/"
TRAINING_STATE = re.compile(r"opt.*|(.*_)?(scheduler|scaler)", re.IGNORECASE)
"""Keys whose dicts are not weights."""
ELEMENTS = struct.Struct("<q")
MEMBERS = re.compile(
    r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/[^/]+"
)

StorageSpans = dict[str, tuple[int, int]]
"""Offset in the file and bytes of each storage."""


class PickleFile(TensorFile):
    """An opened checkpoint of torch.save, memory-mapped; its pickle was never run."""

    format = "pickle"

    def __init__(self, path: Path, views: dict[str, View], spans: StorageSpans) -> None:
        entries = {n: TensorInfo(v.shape, v.storage.dtype) for n, v in views.items()}
        super().__init__(path, entries)
        self._views, self._spans = views, spans
        self._stamp = file_stamp(path)
        size = path.stat().st_size
        self._bytes = torch.UntypedStorage.from_file(str(path), False, size)

    def _data(self, name: str) -> Tensor:
        view, entry = self._views[name], self._entries[name]
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=entry.dtype)
        item = entry.dtype.itemsize
        start, _ = self._spans[view.storage.key]
        start += (view.storage.first + view.offset) * item
        steps = zip(view.shape, view.stride, strict=True)
        end = start + (1 + sum((size - 1) * step for size, step in steps)) * item
        # Pages are aligned, so an odd place in the file is an odd one in memory. What
        # leaves gaps stays mapped: its copy, made later, is smaller without them.
        whole = end - start == entry.nbytes
        odd = start % item or (whole and start % ALIGNMENT)
        part = self._bytes[start:end]
        if odd:
            raw = read_bytes(self.path, start, end - start, self._stamp)
            part = raw.untyped_storage()
        empty = torch.empty(0, dtype=entry.dtype)
        return empty.set_(part, 0, view.shape, view.stride)


def open_zip(path: Path, archive: Archive) -> PickleFile:
    """Open a checkpoint of torch.save since 1.6."""
    root = next(n for n in archive.members if n.endswith(f"/{PICKLE}")).split("/")[0]
    records: StorageSpans = {}
    for name, info in archive.members.items():
        if name in (f"{root}/constants.pkl", f"{root}/model.json") or "/code/" in name:
            archive.refuse(
                f"it has the member {printable_name(name)}: it is a TorchScript "
                "program, not weights. Save the model's state_dict()"
            )
        if not MEMBERS.fullmatch(name.removeprefix(f"{root}/")):
            archive.refuse(
                f"it has the member {printable_name(name)}, which torch.save does not "
                "write. Save the state dict alone"
            )
        if info.compress_type != ZIP_STORED:
            archive.refuse(
                f"member {printable_name(name)} is compressed, which torch.save never "
                "does. Save the state dict again"
            )
        if name.startswith(f"{root}/data/"):
            key = name.removeprefix(f"{root}/data/")
            records[key] = (archive.data_offset(info), info.file_size)
    member = f"{root}/{PICKLE}"
    content = _small_member(archive, member, MAX_PICKLE_SIZE)
    order = f"{root}/byteorder"
    if order in archive.members and _small_member(archive, order, 8) != b"little":
        archive.refuse("its numbers are big-endian. Save it again on a usual machine")
    where = f"{printable_path(path)}, member {printable_name(member)}"

    def storage_size(key: str, dtype: torch.dtype) -> int:
        if key not in records:
            _refuse_damaged(where, f"it has no storage {printable_name(key)}")
        return records[key][1]

    stream = BytesIO(content)
    state = read_structure(stream, where, storage_size)
    if stream.tell() != len(content):
        _refuse_damaged(where, "bytes follow after its end")
    return PickleFile(path, flatten(state, where), records)


def open_legacy(path: Path) -> PickleFile:
    """Open a checkpoint of torch.save before 1.6: five pickles, then the storages."""
    where, size = printable_path(path), path.stat().st_size
    with path.open("rb") as file:
        for expected in (MAGIC, PROTOCOL):
            if read_structure(file, where, _no_storage) != expected:
                raise WeightsError(
                    f"{where} is a pickle that torch.save did not write. Save its "
                    "state dict as .safetensors, and give that file."
                )
        header = read_structure(file, where, _no_storage)
        if not isinstance(header, dict) or header.get("little_endian") is not True:
            _refuse_damaged(where, "it does not say that its numbers are little-endian")
        dtypes: dict[str, torch.dtype] = {}

        def storage_size(key: str, dtype: torch.dtype) -> int:
            if dtypes.setdefault(key, dtype) != dtype:
                _refuse_damaged(
                    where, f"storage {printable_name(key)} has two precisions"
                )
            return size

        state = read_structure(file, where, storage_size)
        keys = read_structure(file, where, _no_storage)
        spans = _raw_storages(file, where, size, keys, dtypes=dtypes)
    views = flatten(state, where)
    for name, view in views.items():
        storage = view.storage
        end = (storage.first + storage.numel) * storage.dtype.itemsize
        if end > spans[storage.key][1]:
            _refuse_damaged(
                where, f"tensor {printable_name(name)} reaches past its storage"
            )
    return PickleFile(path, views, spans)


def _no_storage(key: str, dtype: torch.dtype) -> int:
    """Return the size of a storage in a pickle that has none."""
    return 0


def _raw_storages(
    file: BufferedIOBase,
    where: str,
    size: int,
    keys: Any,
    *,
    dtypes: dict[str, torch.dtype],
) -> StorageSpans:
    """Return the spans of the old format's storages, up to the end of the file."""
    valid = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not valid or sorted(keys) != sorted(dtypes):
        _refuse_damaged(
            where, "the storages it lists are not those that its tensors use"
        )
    spans: StorageSpans = {}
    for key in keys:
        head = file.read(ELEMENTS.size)
        elements = ELEMENTS.unpack(head)[0] if len(head) == ELEMENTS.size else -1
        nbytes, start = elements * dtypes[key].itemsize, file.tell()
        if elements < 0 or nbytes > size - start:
            _refuse_damaged(
                where,
                f"storage {printable_name(key)} claims {format_int(nbytes)} bytes but "
                f"{size - start} are left in the file",
            )
        spans[key] = (start, nbytes)
        file.seek(nbytes, 1)
    if file.tell() != size:
        _refuse_damaged(
            where, f"{size - file.tell()} bytes follow after the last storage"
        )
    return spans


def flatten(state: Any, where: str) -> dict[str, View]:
    """Return the tensors by name: "name", "outer/name" or "outer/inner/name"."""
    if not isinstance(state, dict):
        raise WeightsError(
            f"{where}: the pickle holds {_article(state)}, not a dict of tensors. Save "
            "the model's state_dict(), and give that file."
        )
    views: dict[str, View] = {}
    # A dict may be shared, so the walk can be longer than the file.
    for count, (name, view) in enumerate(_walk(state, "", 0)):
        if count == MAX_ITEMS or len(name) > MAX_KEY_LENGTH:
            _refuse_damaged(
                where, f"it has over {MAX_ITEMS} values or a name over {MAX_KEY_LENGTH}"
            )
        if view is not None and name in views:
            _refuse_damaged(where, f"two tensors are called {printable_name(name)}")
        if view is not None:
            views[name] = view
    if not views:
        raise WeightsError(
            f"{where}: the pickle holds no tensor in a dict, or in a dict within "
            f"{MAX_NESTING}. Save the model's state_dict(), and give that file."
        )
    return views


def _walk(
    state: dict[Any, Any], prefix: str, depth: int
) -> Iterator[tuple[str, View | None]]:
    """Yield every value with its full name; None for a value to skip."""
    for key, value in state.items():
        text = isinstance(key, str)
        name = prefix + key if text else prefix
        yield name, value if text and isinstance(value, View) else None
        inner = text and isinstance(value, dict) and depth < MAX_NESTING
        if inner and not TRAINING_STATE.fullmatch(key):
            yield from _walk(value, name + SEPARATOR, depth + 1)


def _small_member(archive: Archive, name: str, most: int) -> bytes:
    info = archive.members.get(name)
    if info is None:
        archive.refuse_damaged(f"it has no member {printable_name(name)}")
    if info.file_size > most:
        archive.refuse_damaged(
            f"member {printable_name(name)} of {info.file_size} bytes is over {most}"
        )
    try:
        return archive.zip.read(info)
    except ZIP_ERRORS as error:
        archive.refuse_damaged(f"member {printable_name(name)}: {one_line(error)}")


def _article(value: Any) -> str:
    return "one tensor" if isinstance(value, View) else f"a {type(value).__name__}"


def _refuse_damaged(where: str, reason: str) -> NoReturn:
    raise WeightsError(
        f"{where}: the checkpoint is not whole: {reason}. It may be cut short, damaged "
        "or made up; fetch it again and compare its sha256."
    )
