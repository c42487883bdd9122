"""The cache of named weights: one folder for each, which can be copied as it is.

A folder is complete when it has `source.json`, which is written last: it holds the
address, the commit and the SHA-256 of every file. The folder works on another machine,
in its cache or as a path.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.atomic_io import sha256_file, write_json
from vitral.errors import WeightsError
from vitral.json_file import read_object

PIN = "source.json"
"""File that says where the others came from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """Origin of the files of a folder."""

    name: str
    """Record, or hub id, that the files were fetched for."""
    source: str
    """Address or package."""
    revision: str = ""
    """Commit of the hub's repository."""
    licence: str = ""
    files: dict[str, dict[str, Any]]
    """Size in bytes and SHA-256 of each file."""
    note: str = ""
    """What is particular of this source."""


def cache_root() -> Path:
    """Return the folder of the cache: `VITRAL_CACHE`, else `~/.cache/vitral`."""
    if chosen := os.environ.get("VITRAL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vitral"


def cache_folder(name: str) -> Path:
    """Return the folder of named weights, whether or not it is there."""
    return cache_root() / "weights" / name.replace("/", "--")


def find_cached(name: str) -> Path | None:
    """Return the folder of cached weights; None where they are not complete."""
    folder = cache_folder(name)
    return folder if (folder / PIN).is_file() else None


def list_cached() -> Iterator[Path]:
    """Yield the complete folders of the cache."""
    root = cache_root() / "weights"
    if root.is_dir():
        yield from sorted(it for it in root.iterdir() if (it / PIN).is_file())


def write_pin(folder: Path, pin: Pin) -> None:
    """Mark a folder as complete."""
    values = {field: getattr(pin, field) for field in Pin.__slots__}
    write_json(folder / PIN, {key: value for key, value in values.items() if value})


def read_pin(folder: Path) -> Pin | None:
    """Return the origin of a folder's files; None for a folder without one.

    Raises:
        WeightsError: the file cannot be read, or is of another program.
    """
    file = folder / PIN
    if not file.is_file():
        return None
    what_to_do = "Remove the folder and fetch the weights again."
    values = read_object(file, WeightsError, what_to_do)
    texts = {key: values.get(key, "") for key in Pin.__slots__ if key != "files"}
    files = values.get("files")
    well_formed = (
        isinstance(files, dict)
        and files
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("bytes"), int)
            and isinstance(entry.get("sha256"), str)
            and Path(name).name == name
            for name, entry in files.items()
        )
    )
    if not well_formed or not all(isinstance(it, str) for it in texts.values()):
        raise WeightsError(f"{file} is no record of fetched weights. {what_to_do}")
    assert isinstance(files, dict)
    return Pin(files=files, **texts)


def describe_file(file: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file, as a pin has them."""
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def verify_folder(folder: Path) -> list[str]:
    """Compare the files of a folder with its pin; return a sentence for each fault."""
    pin = read_pin(folder)
    if pin is None:
        return [f"{folder} has no {PIN}: its files were not fetched by vitral."]
    faults = []
    for name, entry in pin.files.items():
        file = folder / name
        if not file.is_file():
            faults.append(f"{file} is missing.")
        elif file.stat().st_size != entry["bytes"]:
            faults.append(
                f"{file} has {file.stat().st_size:,} bytes, {entry['bytes']:,} were "
                "fetched."
            )
        elif (digest := sha256_file(file)) != entry["sha256"]:
            faults.append(
                f"{file} has SHA-256 {digest}, but {entry['sha256']} was fetched."
            )
    return faults


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a fetched folder, and its pin last."""
    pin = read_pin(source)
    assert pin is not None
    target.mkdir(parents=True, exist_ok=True)
    for name in [*pin.files, PIN]:
        partial = target / f".{name}.copy"
        shutil.copyfile(source / name, partial)
        partial.replace(target / name)


def remove_folder(folder: Path) -> None:
    """Remove a folder of the cache; its pin first, so that half of it counts as none.

    Raises:
        WeightsError: the folder was not written by vitral.
    """
    if not (folder / PIN).is_file():
        raise WeightsError(f"{folder} has no {PIN}: nothing was removed.")
    (folder / PIN).unlink()
    shutil.rmtree(folder)
