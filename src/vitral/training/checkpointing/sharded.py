"""Checkpoints of sharded runs: each rank writes its parts, by torch's DCP.

A step's folder holds `shards/` (one file a rank and `.metadata`), `state.json` and
`manifest.json`. torch keeps `.metadata` as a pickle: it is read by a reader that knows
the dozen names that belong in one, and only after the manifest verifies.
"""

import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.metadata import TensorStorageMetadata as Stored

from vitral.atomic_io import sync_folder
from vitral.errors import DivergedError, VitralError, WeightsError
from vitral.training.checkpointing.checkpoint import (
    CheckpointStore,
    describe_file,
    require_finite,
)
from vitral.training.distributed import (
    all_gather,
    broadcast_from_rank_zero,
    get_rank,
    local_tensor,
)

FOLDER = "shards"
METADATA = ".metadata"

_DCP = "torch.distributed.checkpoint."
ALLOWED_GLOBALS = {
    (_DCP + "metadata", "Metadata"),
    (_DCP + "metadata", "TensorStorageMetadata"),
    (_DCP + "metadata", "TensorProperties"),
    (_DCP + "metadata", "ChunkStorageMetadata"),
    (_DCP + "metadata", "MetadataIndex"),
    (_DCP + "metadata", "StorageMeta"),
    (_DCP + "metadata", "_MEM_FORMAT_ENCODING"),
    (_DCP + "filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
}
"""Names that `.metadata` may hold, apart from torch's types of numbers."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        kind = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not kind and (module, name) not in ALLOWED_GLOBALS:
            raise WeightsError(
                f"The checkpoint's {METADATA} names {module}.{name}, which does not "
                "belong in one: it was not written by vitral. Nothing was run."
            )
        return super().find_class(module, name)


class SafeMetadataReader(FileSystemReader):
    def read_metadata(self, *args: Any, **named: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _read(file)
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _read(file: BinaryIO) -> Metadata:
    try:
        metadata = _Unpickler(file).load()
    except VitralError:
        raise
    except Exception as error:
        raise WeightsError(
            f"The checkpoint's {METADATA} is damaged ({error}): resume from an older "
            "one by removing this folder."
        ) from error
    assert isinstance(metadata, Metadata)
    return metadata


def save(
    store: CheckpointStore,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `step`, all of it or nothing; every rank calls it."""
    _require_finite(step, tensors)
    temporary = broadcast_from_rank_zero(lambda: _make_temporary_folder(store, step))
    try:
        _write(temporary, tensors)
        mine = _hash_files(temporary / FOLDER)
        every = [item for rows in all_gather(mine) for item in rows.items()]
        return broadcast_from_rank_zero(
            lambda: _commit(store, step, temporary, dict(every), state)
        )
    except (OSError, CheckpointException) as error:
        if get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise WeightsError(_write_error_message(store, step, error)) from error


def load(
    folder: Path, templates: Callable[[str], Mapping[str, Tensor]] | None
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by group, whole or this rank's parts.

    Args:
        folder: of one step, verified.
        templates: a group to the tensors whose division its own take over; None for
            whole tensors on the CPU, also in one process.
    """
    # Annotated, since torch declares a narrower type than it takes.
    reader: Any = SafeMetadataReader(str(folder / FOLDER))
    flat: dict[str, Any] = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        if not isinstance(stored, Stored):
            raise WeightsError(f"{folder} holds {name}, which is no tensor.")
        group, _, key = name.partition("/")
        template = None if templates is None else templates(group).get(key)
        flat[name] = _empty_tensor(stored, template)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(flat, storage_reader=reader, no_dist=templates is None)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = tensor
    return groups


def _empty_tensor(stored: Stored, template: Tensor | None) -> Tensor:
    if template is not None and template.shape == stored.size:
        return torch.empty_like(template, dtype=stored.properties.dtype).detach()
    return torch.empty(stored.size, dtype=stored.properties.dtype)


def _make_temporary_folder(store: CheckpointStore, step: int) -> Path:
    temporary = store.temporary_folder(step)
    try:
        temporary.mkdir()
    except OSError as error:
        raise WeightsError(_write_error_message(store, step, error)) from error
    return temporary


def _write(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    flat = {
        f"{group}/{name}": tensor.detach()
        for group, values in tensors.items()
        for name, tensor in values.items()
    }
    writer: Any = FileSystemWriter(str(folder / FOLDER))
    dcp.save(flat, storage_writer=writer)


def _hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Describe the files that this rank wrote."""
    paths = list(folder.glob(f"__{get_rank()}_*"))
    if get_rank() == 0:
        paths.append(folder / METADATA)
    return {f"{FOLDER}/{path.name}": describe_file(path) for path in paths}


def _commit(
    store: CheckpointStore,
    step: int,
    temporary: Path,
    files: dict[str, Any],
    state: Mapping[str, Any],
) -> Path:
    try:
        sync_folder(temporary / FOLDER)
        return store.commit(step, temporary, files, state)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise WeightsError(_write_error_message(store, step, error)) from error


def _require_finite(step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise on all ranks what one finds in its parts."""
    own_error: DivergedError | None = None
    try:
        require_finite(
            step,
            {
                group: {name: local_tensor(tensor) for name, tensor in values.items()}
                for group, values in tensors.items()
            },
        )
    except DivergedError as error:
        own_error = error
    for one in all_gather(own_error):
        if one is not None:
            raise one


def _write_error_message(
    store: CheckpointStore, step: int, error: BaseException
) -> str:
    reason = error
    if isinstance(error, CheckpointException):
        reason = next(iter(error.failures.values()))[0]
    return (
        f"The checkpoint of step {step} could not be written to {store.folder} "
        f"({' '.join(str(reason).split())}). Earlier checkpoints are intact: free "
        "space and resume the run."
    )
