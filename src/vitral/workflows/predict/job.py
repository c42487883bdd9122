"""What a folder of answers will hold, and how far it is: for going on after a kill.

The files to answer for are listed once, with size and time, before the first answer;
who goes on compares the model, the flags and every file with that.
"""

import glob
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.atomic_io import TEMPORARY_SUFFIX, sha256_file, write_json
from vitral.errors import ConfigError
from vitral.version import __version__
from vitral.workflows.predict.job_files import (
    Listing,
    Place,
    compare_files,
    digest_of,
    lines_of,
    read_listing,
    write_listing,
)
from vitral.workflows.run import Run
from vitral.workflows.run_lock import LOCK

BATCHES = 16
"""Of a part: what a kill costs at most, and how often the disk is flushed."""
OF_A_MODEL = (".json", ".safetensors", ".onnx", ".data", ".xml", ".bin")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that the answers depend on, and the files in parts."""

    settings: dict[str, Any]
    listing: Listing
    unreadable: int | None = None
    """None until all is answered."""

    @property
    def done(self) -> bool:
        return self.unreadable is not None

    def missing(self, place: Place) -> list[int]:
        """The parts that are still to be answered."""
        form = self.settings["format"]
        numbers = range(len(self.listing.starts))
        return [n for n in numbers if not place.part(n, form).is_file()]

    def size(self, part: int) -> int:
        """How many files a part has."""
        each = int(self.settings["batch"]) * BATCHES
        return min(each, self.listing.files - part * each)

    def batches(self, place: Place, part: int) -> Iterator[tuple[Path, ...]]:
        """The files of a part in the batches that the model gets."""
        size = self.settings["batch"]
        with place.listing.open("rb") as lines:
            lines.seek(self.listing.starts[part])
            chosen = itertools.islice(lines, size * BATCHES)
            paths = (Path(json.loads(line)[0]) for line in chosen)
            while batch := tuple(itertools.islice(paths, size)):
                yield batch


def settings_of(run: Run, *, top: int, form: str, batch: int, device: str) -> Any:
    """All that a row depends on besides the file, by the word that a person knows."""
    return {
        "model": _fingerprint(run.path),
        "temperature": run.temperature,
        "preprocess": run.preprocess.hash,
        "views": run.extra.get("eval_views", "one"),
        "precision": run.extra.get("precision", "fp32"),
        "merge": int(getattr(run.model.config, "merge_rate", 0)),
        "merge_schedule": str(getattr(run.model.config, "merge_schedule", "")),
        "top": top,
        "format": form,
        "batch": batch,
        "device": device,
        "vitral": __version__,
    }


def prepare(place: Place, settings: dict[str, Any], files: Iterable[Path]) -> Plan:
    """Begin, or go on with what an earlier start left; for the owner of the lock.

    Raises:
        ConfigError: the place holds something else, or the model, a flag or a file is
            not what it was.
    """
    each = settings["batch"] * BATCHES
    if not place.plan.is_file():
        _refuse_foreign(place)
        _remove_leftovers(place)
        plan = Plan(settings=settings, listing=write_listing(place, files, each))
        _keep(plan, place)
        return plan
    _remove_leftovers(place)
    stored = _stored(place)
    _compare(stored["settings"], settings, place)
    if stored["unreadable"] is not None and _all_there(place, stored):
        _compare_digest(place, stored, digest_of(lines_of(files)))
        remove_parts(place)
        listing = Listing(stored["files"], stored["listing"], ())
        bad = stored["unreadable"]
        return Plan(settings=settings, listing=listing, unreadable=bad)
    if place.listing.is_file():
        compare_files(place, files)
        return Plan(settings=settings, listing=read_listing(place, each))
    # All was answered once, and some of it was removed.
    listing = write_listing(place, files, each)
    _compare_digest(place, stored, listing.digest)
    return Plan(settings=settings, listing=listing)


def finish(plan: Plan, place: Place, unreadable: int) -> None:
    """Note that all is answered, and remove what only going on needs."""
    _keep(plan, place, unreadable)
    remove_parts(place)


def remove_parts(place: Place) -> None:
    """Remove the listing, and the parts that one file replaces."""
    place.listing.unlink(missing_ok=True)
    if place.whole:
        for file in place.work.glob("part-*"):
            file.unlink()


def _refuse_foreign(place: Place) -> None:
    if place.whole and place.out.exists():
        raise ConfigError(
            f"{place.out} is already there, without the {place.plan.name} of a run "
            "that could go on: give another `--out`, or remove it."
        )
    own = {place.work / LOCK, place.listing, *_leftovers(place)}
    others = sorted(file.name for file in place.work.iterdir() if file not in own)
    if others:
        raise ConfigError(
            f"The folder {place.work} holds something else, such as {others[0]}: give "
            "another `--out`."
        )


def _compare(old: dict[str, Any], new: dict[str, Any], place: Place) -> None:
    for name, value in new.items():
        if old.get(name) != value:
            before, now = old.get(name), value
            if name in ("model", "preprocess"):
                before, now = "another one", "this one"
            raise ConfigError(
                f"The answers in {place.out} were begun with `{name}` {before} and "
                f"cannot go on with {now}: the file would mix both. Use the first, or "
                "give another `--out`."
            )


def _compare_digest(place: Place, stored: dict[str, Any], digest: str) -> None:
    if digest != stored["listing"]:
        raise ConfigError(
            f"{place.out} is complete, but not for these files: some are new, gone or "
            f"changed since. Give another `--out`, or remove it and {place.plan}."
        )


def _all_there(place: Place, stored: dict[str, Any]) -> bool:
    """Whether nothing was removed from what was complete."""
    if place.whole:
        return place.out.is_file()
    form, each = stored["settings"]["format"], stored["settings"]["batch"] * BATCHES
    numbers = range(math.ceil(stored["files"] / each))
    return all(place.part(number, form).is_file() for number in numbers)


def _leftovers(place: Place) -> list[Path]:
    """What killed processes left half-written."""
    names = ("part-*", place.listing.name, glob.escape(place.plan.name))
    folders = {place.work, place.plan.parent}
    return [
        file
        for name in names
        for folder in folders
        for file in folder.glob(f".{name}.[0-9]*{TEMPORARY_SUFFIX}")
    ]


def _remove_leftovers(place: Place) -> None:
    for file in _leftovers(place):
        file.unlink(missing_ok=True)


def _stored(place: Place) -> dict[str, Any]:
    try:
        found = json.loads(place.plan.read_bytes())
        return {
            "settings": dict(found["settings"]),
            "files": int(found["files"]),
            "listing": str(found["listing"]),
            "unreadable": found["unreadable"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{place.plan} is no plan of answers ({error}): give another `--out`, or "
            "remove it and what belongs to it."
        ) from error


def _keep(plan: Plan, place: Place, unreadable: int | None = None) -> None:
    listing = {"files": plan.listing.files, "listing": plan.listing.digest}
    write_json(
        place.plan, {**listing, "unreadable": unreadable, "settings": plan.settings}
    )


def _fingerprint(path: Path) -> str:
    """The SHA-256 of a model: a file, a model folder, or a run with one."""
    if path.is_file():
        inside = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
    else:
        folder = path / "model" if (path / "model").is_dir() else path
        inside = sorted(folder.iterdir())
    whole = hashlib.sha256()
    for file in inside:
        if file.is_file() and file.suffix in OF_A_MODEL:
            whole.update(f"{file.name} {sha256_file(file)}\n".encode())
    return whole.hexdigest()
