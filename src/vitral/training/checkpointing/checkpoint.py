"""Checkpoints that a kill, a power cut or a full disk cannot spoil.

A folder a step, with .safetensors files, `state.json` and `manifest.json` (sizes and
SHA-256 of the others), gets its name once all is on the disk. Nothing is pickled.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitral.atomic_io import make_folder, sha256_file, sync_folder, write_json
from vitral.errors import ConfigError, DivergedError, WeightsError

FORMAT = 1
FOLDER_NAME = re.compile(r"step-(\d{8,})")
LEFTOVER_NAME = re.compile(r"\.(new|old)-step-\d{8,}-\d+|\.probe")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint: named tensors in named groups, and plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class LatestCheckpoint(NamedTuple):
    """The newest step that verifies, and a sentence on each newer one."""

    step: int | None
    skipped: tuple[str, ...]


class CheckpointStore:
    """The folder `checkpoints/` of a run; reading changes nothing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder, remove what a killed process left, and try a write.

        Raises:
            ConfigError: the folder cannot be written.
            WeightsError: the disk is full.
        """
        try:
            make_folder(self.folder)
            for path in self.folder.iterdir():
                if LEFTOVER_NAME.fullmatch(path.name):
                    _remove(path)
            probe = self.folder / ".probe"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WeightsError(
                    f"Checkpoints cannot be written to {self.folder}: the disk is "
                    "full. Free space and run the same command with --resume."
                ) from error
            raise ConfigError(
                f"Checkpoints cannot be written to {self.folder} "
                f"({error.strerror or error}): choose another output folder."
            ) from error

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> tuple[int, ...]:
        """Return the steps that have a folder, oldest first, verified or not."""
        if not self.folder.is_dir():
            return ()
        matches = (FOLDER_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return tuple(sorted(int(match[1]) for match in matches if match))

    def find_fault(self, step: int) -> str | None:
        """Return the reason why the checkpoint does not verify; None when it does."""
        folder = self.path(step)
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files = manifest["files"]
            whole = "model.safetensors" in files or "shards/.metadata" in files
            if manifest["step"] != step or not whole or "state.json" not in files:
                return "manifest.json does not describe this checkpoint"
            for name, recorded in files.items():
                size = (folder / name).stat().st_size
                if size != recorded["bytes"]:
                    return f"{name} has {size} bytes instead of {recorded['bytes']}"
                if sha256_file(folder / name) != recorded["sha256"]:
                    return f"{name} has another content than when it was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except OSError as error:
            return f"it cannot be read ({error.strerror or error})"
        except (ValueError, KeyError, TypeError, AttributeError):
            return "manifest.json is damaged"
        return None

    def latest(self) -> LatestCheckpoint:
        skipped: list[str] = []
        for step in reversed(self.steps()):
            fault = self.find_fault(step)
            if fault is None:
                return LatestCheckpoint(step, tuple(skipped))
            skipped.append(f"Checkpoint {self.path(step)} is skipped: {fault}.")
        return LatestCheckpoint(None, tuple(skipped))

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint; tensors are on the CPU.

        Raises:
            WeightsError: it is missing or does not verify.
        """
        fault = self.find_fault(step)
        folder = self.path(step)
        if fault is not None:
            raise WeightsError(
                f"Checkpoint {folder} cannot be used: {fault}. Resume from an older "
                "one by removing this folder."
            )
        tensors = {
            path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))
        }
        state = json.loads((folder / "state.json").read_bytes())
        return Checkpoint(step=step, tensors=tensors, state=state)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Write the checkpoint of `step`, all of it or nothing.

        Args:
            tensors: groups by name, one file each; `model` must be among them.
            state: JSON values.

        Raises:
            DivergedError: a tensor has a number that is not finite.
            WeightsError: the disk is full, cannot be written, or has this step.
        """
        require_finite(step, tensors)
        temporary = self.temporary_folder(step)
        try:
            temporary.mkdir()
            for group, values in tensors.items():
                write_tensors(temporary / f"{group}.safetensors", values)
            files = {path.name: describe_file(path) for path in temporary.iterdir()}
            return self.commit(step, temporary, files, state)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._write_error(step, tensors, error) from error

    def temporary_folder(self, step: int) -> Path:
        """Return the folder to write a step into, which does not exist yet."""
        final = self.path(step)
        if final.exists() and self.find_fault(step) is None:
            raise WeightsError(f"Checkpoint {final} exists: steps are written once.")
        temporary = self.folder / f".new-{final.name}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        return temporary

    def commit(
        self,
        step: int,
        temporary: Path,
        files: Mapping[str, dict[str, Any]],
        state: Mapping[str, Any],
    ) -> Path:
        """Add state and manifest to the written files, then name the folder."""
        final = self.path(step)
        write_json(temporary / "state.json", dict(state))
        described = dict(sorted(files.items()))
        described["state.json"] = describe_file(temporary / "state.json")
        manifest = {"format": FORMAT, "step": step, "files": described}
        write_json(temporary / "manifest.json", manifest)  # flushes the folder too
        if final.exists():  # damaged: the run went on from an older one
            _remove(self._set_aside(final))
        temporary.rename(final)
        sync_folder(self.folder)
        return final

    def prune(self, keep: int, best: int | None) -> tuple[str, ...]:
        """Delete all but the newest `keep` (at least 1) and the one of step `best`.

        If none of those verifies, the newest one that does stays too.

        Returns:
            A sentence for each checkpoint that could not be deleted; it stays.
        """
        steps = self.steps()
        keep_steps = [
            s for s in reversed(steps) if s in steps[-max(keep, 1) :] or s == best
        ]
        rest = [step for step in reversed(steps) if step not in keep_steps]
        if rest and all(self.find_fault(step) is not None for step in keep_steps):
            sound = (step for step in rest if self.find_fault(step) is None)
            keep_steps.append(next(sound, rest[0]))
        notes = []
        for step in rest:
            if step in keep_steps:
                continue
            try:
                _remove(self._set_aside(self.path(step)))
            except OSError as error:
                reason = error.strerror or error
                notes.append(
                    f"Old checkpoint {self.path(step)} was not deleted ({reason})."
                )
        return tuple(notes)

    def _set_aside(self, path: Path) -> Path:
        """Rename first: a delete that is cut short must not leave half a checkpoint."""
        return path.rename(path.with_name(f".old-{path.name}-{os.getpid()}"))

    def _write_error(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], error: Exception
    ) -> WeightsError:
        needed = sum(t.nbytes for group in tensors.values() for t in group.values())
        try:
            free = f"{shutil.disk_usage(self.folder).free:,} bytes are free"
        except OSError:
            free = "the free space is unknown"
        previous = self.latest().step
        intact = (
            "there was no checkpoint before it"
            if previous is None
            else f"the previous checkpoint, {self.path(previous)}, is intact"
        )
        return WeightsError(
            f"The checkpoint of step {step} could not be written to {self.folder} "
            f"({error}): it needs {needed:,} bytes and {free}; {intact}. Free space "
            "and resume the run."
        )


def describe_file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a flushed .safetensors file; tensors that share memory are copied."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        if address in seen:
            value = value.clone()
        seen.add(address)
        plain[name] = value
    save_file(plain, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def require_finite(step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise DivergedError for a tensor that must not reach the disk."""
    for group, values in tensors.items():
        for name, tensor in values.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise DivergedError(
                    f"Training diverged: {name} of {group} has NaN or infinite values "
                    f"at step {step}. Nothing was saved; earlier checkpoints are "
                    "intact. Lower the learning rate or lengthen the warm-up."
                )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
