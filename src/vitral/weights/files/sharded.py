"""Weights in several files: an index in JSON names the file of each tensor."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from vitral.errors import WeightsError
from vitral.weights.files.tensor_file import (
    TensorFile,
    TensorInfo,
    one_line,
    printable_name,
    printable_path,
)

SUFFIX = ".index.json"
PART = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
MAX_INDEX_SIZE = 2**26
MAX_PARTS = 10_000


class ShardedFile(TensorFile):
    """The tensors of all files that an index names."""

    def __init__(self, path: Path, open_part: Callable[[Path], TensorFile]) -> None:
        weight_map = read_index(path)
        parts = {
            name: open_part(path.with_name(name))
            for name in sorted(set(weight_map.values()))
        }
        entries: dict[str, TensorInfo] = {}
        for tensor, name in weight_map.items():
            if tensor not in parts[name]:
                raise WeightsError(
                    f"{printable_path(path)}: tensor {printable_name(tensor)} is not "
                    f"in {printable_name(name)}, where the index has it. Fetch index "
                    "and parts again, of one revision."
                )
            entries[tensor] = TensorInfo(
                parts[name].shape(tensor), parts[name].dtype(tensor)
            )
        for name, part in parts.items():
            others = [it for it in part.names() if weight_map.get(it) != name]
            if others:
                raise WeightsError(
                    f"{printable_path(part.path)} has the tensor "
                    f"{printable_name(others[0])}, which the index does not have "
                    "there. Fetch index and parts again, of one revision."
                )
        self._parts, self._map = parts, weight_map
        first = next(iter(parts.values()))
        self.format = first.format
        super().__init__(path, entries, first.metadata)

    def read(self, name: str) -> Tensor:
        self._entry(name)
        return self._data(name)

    def disk_size(self) -> int:
        return sum(part.disk_size() for part in self._parts.values())

    def _data(self, name: str) -> Tensor:
        return self._parts[self._map[name]].read(name)


def read_index(path: Path, *, present: bool = True) -> Mapping[str, str]:
    """Return the file of each tensor, a name beside the index.

    Args:
        present: require that the files are there.

    Raises:
        WeightsError: the index is damaged, or names a file that is not there.
    """
    if path.stat().st_size > MAX_INDEX_SIZE:
        raise _damaged(path, f"it has more than {MAX_INDEX_SIZE} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON: {one_line(error)}") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise _damaged(path, "it has no object `weight_map`")
    names = set(map(str, weight_map.values()))
    if len(names) > MAX_PARTS:
        raise _damaged(path, f"it names more than {MAX_PARTS} files")
    for name in weight_map.values():
        inside = isinstance(name, str) and not re.search(r"[/\\\0]", name)
        if not inside or not name.endswith((".safetensors", ".bin")):
            raise _damaged(path, f"it names the file {printable_name(name)}")
    missing = sorted(name for name in names if not path.with_name(name).is_file())
    if present and missing:
        shown = ", ".join(map(printable_name, missing[:3]))
        raise WeightsError(
            f"{printable_path(path)} names {len(names)} files, of which {len(missing)} "
            f"are not beside it: {shown}. Fetch the whole folder."
        )
    return weight_map


def require_whole(path: Path) -> None:
    """Refuse one file of several, whose other tensors are elsewhere.

    Raises:
        WeightsError: the name is that of a part.
    """
    if PART.fullmatch(path.name) and not re.search(r"-00001-of-00001\.", path.name):
        raise WeightsError(
            f"{printable_path(path)} is one of several files that hold a model's "
            "weights together. Give the folder, with all of them and the index, "
            f"a file that ends in {SUFFIX}."
        )


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{printable_path(path)} is no index of weights in several files: {reason}. "
        "Expected `weight_map`, an object of tensors' names and the files beside it "
        "that hold them. Fetch it again."
    )
