"""Plan of a resumable prediction job: its settings, its parts, which parts are done.

The input files are listed once, with size and time, before the first prediction. A
restart is refused if the model, the flags or a file changed.
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
    FileListing,
    JobPaths,
    hash_lines,
    iter_listing_lines,
    read_listing,
    require_same_files,
    write_listing,
)
from vitral.workflows.run import Run
from vitral.workflows.run_lock import LOCK_FILE

BATCHES_PER_PART = 16
"""Batches per part: the most work that a kill costs, and between two disk flushes."""
MODEL_SUFFIXES = (".json", ".safetensors", ".onnx", ".data", ".xml", ".bin")


@dataclass(frozen=True, kw_only=True)
class PredictionPlan:
    """The settings that decide the predictions, and the input files in parts."""

    settings: dict[str, Any]
    listing: FileListing
    unreadable: int | None = None
    """Files that could not be read; None until the job is complete."""

    @property
    def is_complete(self) -> bool:
        return self.unreadable is not None

    def missing_parts(self, job_paths: JobPaths) -> list[int]:
        """Return the indices of the parts that are not written yet."""
        form = self.settings["format"]
        indices = range(len(self.listing.part_offsets))
        return [i for i in indices if not job_paths.part(i, form).is_file()]

    def part_size(self, part: int) -> int:
        """Return the number of files in a part."""
        full = int(self.settings["batch"]) * BATCHES_PER_PART
        return min(full, self.listing.files - part * full)

    def iter_batches(
        self, job_paths: JobPaths, part: int
    ) -> Iterator[tuple[Path, ...]]:
        """Yield the files of a part, batch by batch."""
        size = self.settings["batch"]
        with job_paths.listing.open("rb") as lines:
            lines.seek(self.listing.part_offsets[part])
            part_lines = itertools.islice(lines, size * BATCHES_PER_PART)
            paths = (Path(json.loads(line)[0]) for line in part_lines)
            while batch := tuple(itertools.islice(paths, size)):
                yield batch


def collect_settings(run: Run, *, top: int, form: str, batch: int, device: str) -> Any:
    """Return all that a row depends on but its file, named like the flags."""
    return {
        "model": _hash_model(run.path),
        **{k: run.metadata.get(k, v) for k, v in run.task.metadata_keys.items()},
        "preprocess": run.preprocess.hash,
        "views": run.inference_spec.views,
        "precision": run.inference_spec.precision,
        "merge": int(getattr(run.model.config, "merge_rate", 0)),
        "merge_schedule": str(getattr(run.model.config, "merge_schedule", "")),
        "top": top,
        "format": form,
        "batch": batch,
        "device": device,
        "vitral": __version__,
    }


def prepare_plan(
    job_paths: JobPaths, settings: dict[str, Any], files: Iterable[Path]
) -> PredictionPlan:
    """Start a job, or resume the one in its folder; the caller holds the lock."""
    part_size = settings["batch"] * BATCHES_PER_PART
    if not job_paths.plan.is_file():
        _require_unused_output(job_paths)
        _remove_leftovers(job_paths)
        plan = PredictionPlan(
            settings=settings, listing=write_listing(job_paths, files, part_size)
        )
        _write_plan(plan, job_paths)
        return plan
    _remove_leftovers(job_paths)
    stored = _read_plan(job_paths)
    _require_same_settings(stored["settings"], settings, job_paths)
    if stored["unreadable"] is not None and _outputs_exist(job_paths, stored):
        _require_same_digest(job_paths, stored, hash_lines(iter_listing_lines(files)))
        remove_parts(job_paths)
        listing = FileListing(stored["files"], stored["listing"], ())
        unreadable = stored["unreadable"]
        return PredictionPlan(settings=settings, listing=listing, unreadable=unreadable)
    if job_paths.listing.is_file():
        require_same_files(job_paths, files)
        return PredictionPlan(
            settings=settings, listing=read_listing(job_paths, part_size)
        )
    # The job was complete, and some of its output was removed.
    listing = write_listing(job_paths, files, part_size)
    _require_same_digest(job_paths, stored, listing.digest)
    return PredictionPlan(settings=settings, listing=listing)


def complete_plan(plan: PredictionPlan, job_paths: JobPaths, unreadable: int) -> None:
    """Mark the job complete, and remove the files that only a resume needs."""
    _write_plan(plan, job_paths, unreadable)
    remove_parts(job_paths)


def remove_parts(job_paths: JobPaths) -> None:
    """Remove the listing, and the parts that were merged into one file."""
    job_paths.listing.unlink(missing_ok=True)
    if job_paths.is_single_file:
        for file in job_paths.work.glob("part-*"):
            file.unlink()


def _require_unused_output(job_paths: JobPaths) -> None:
    if job_paths.is_single_file and job_paths.out.exists():
        raise ConfigError(
            f"{job_paths.out} is already there, without the {job_paths.plan.name} of a "
            "run that could go on: give another `out`, or remove it."
        )
    expected = {
        job_paths.work / LOCK_FILE,
        job_paths.listing,
        *_find_leftovers(job_paths),
    }
    others = sorted(f.name for f in job_paths.work.iterdir() if f not in expected)
    if others:
        raise ConfigError(
            f"The folder {job_paths.work} holds something else, such as {others[0]}: "
            "give another `out`."
        )


def _require_same_settings(
    old: dict[str, Any], new: dict[str, Any], job_paths: JobPaths
) -> None:
    for name, value in new.items():
        if old.get(name) != value:
            before, now = old.get(name), value
            if name in ("model", "preprocess"):
                before, now = "another one", "this one"
            raise ConfigError(
                f"The answers in {job_paths.out} were begun with `{name}` {before} and "
                f"cannot go on with {now}: the file would mix both. Use the first, or "
                "give another `out`."
            )


def _require_same_digest(
    job_paths: JobPaths, stored: dict[str, Any], digest: str
) -> None:
    if digest != stored["listing"]:
        raise ConfigError(
            f"{job_paths.out} is complete, but not for these files: some are new, "
            "gone or changed since. Give another `out`, or remove it and "
            f"{job_paths.plan}."
        )


def _outputs_exist(job_paths: JobPaths, stored: dict[str, Any]) -> bool:
    """Return whether all output of a complete job is still on the disk."""
    if job_paths.is_single_file:
        return job_paths.out.is_file()
    settings = stored["settings"]
    form, part_size = settings["format"], settings["batch"] * BATCHES_PER_PART
    indices = range(math.ceil(stored["files"] / part_size))
    return all(job_paths.part(i, form).is_file() for i in indices)


def _find_leftovers(job_paths: JobPaths) -> list[Path]:
    """Return the temporary files that killed processes left half-written."""
    names = ("part-*", job_paths.listing.name, glob.escape(job_paths.plan.name))
    folders = {job_paths.work, job_paths.plan.parent}
    return [
        file
        for name in names
        for folder in folders
        for file in folder.glob(f".{name}.[0-9]*{TEMPORARY_SUFFIX}")
    ]


def _remove_leftovers(job_paths: JobPaths) -> None:
    for file in _find_leftovers(job_paths):
        file.unlink(missing_ok=True)


def _read_plan(job_paths: JobPaths) -> dict[str, Any]:
    try:
        plan = json.loads(job_paths.plan.read_bytes())
        return {
            "settings": dict(plan["settings"]),
            "files": int(plan["files"]),
            "listing": str(plan["listing"]),
            "unreadable": plan["unreadable"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{job_paths.plan} is no plan of answers ({error}): give another `out`, "
            "or remove it and what belongs to it."
        ) from error


def _write_plan(
    plan: PredictionPlan, job_paths: JobPaths, unreadable: int | None = None
) -> None:
    listing = {"files": plan.listing.files, "listing": plan.listing.digest}
    write_json(
        job_paths.plan, {**listing, "unreadable": unreadable, "settings": plan.settings}
    )


def _hash_model(path: Path) -> str:
    """Return the SHA-256 of a model file, a model folder, or the model of a run."""
    if path.is_file():
        files = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
    else:
        folder = path / "model" if (path / "model").is_dir() else path
        files = sorted(folder.iterdir())
    digest = hashlib.sha256()
    for file in files:
        if file.is_file() and file.suffix in MODEL_SUFFIXES:
            digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()
