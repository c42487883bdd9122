"""Cache of frozen features: computed once, then memory-mapped from the disk.

An entry is a file of float32 numbers and a manifest, written last, with their cache key
and SHA-256. Numbers without a matching manifest are not used.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import vitral.weights
from vitral.atomic_io import TEMPORARY_SUFFIX, sha256_file, write_atomic, write_json
from vitral.data import Dataset, Example, Loader, Preprocess, split_loader
from vitral.errors import ConfigError
from vitral.models import VisionModel
from vitral.tasks.features import (
    ExtractedFeatures,
    attach_targets,
    extract_features,
    iter_features,
)
from vitral.workflows.features.cache_key import make_cache_key

logger = logging.getLogger(__name__)

ABANDONED_SECONDS = 3600.0
"""Age in seconds at which a half-written file is abandoned: each batch renews it."""
HALF_WRITTEN = re.compile(
    rf"\.[0-9a-f]{{32}}\.(f32|json)\.\d+{re.escape(TEMPORARY_SUFFIX)}"
)
PROGRESS_SECONDS = 5.0
"""Between two lines on the progress."""


def default_cache_folder() -> Path:
    """Return the default folder of the cache, below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vitral" / "features"


def cached_features(
    model: VisionModel | str | Path,
    preprocess: Preprocess | None,
    dataset: Dataset,
    split: str = "",
    *,
    folder: str | Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
) -> ExtractedFeatures:
    """Compute the input of the head for each image, or read it from the cache.

    The key holds the weights, the settings of the model, the preprocessing, the labels,
    and names, sizes and times of the files. A read-only folder is logged, no error.

    Args:
        model: a model, used on its device, or an argument of `vitral.weights.load`.
        preprocess: None takes that of the weights, if `model` is a path.
        split: one split of the data set; empty for all.
        folder: None for `default_cache_folder()`.

    Raises:
        ConfigError: the split is empty, or a model came without pre-processing.
        DataError: none of its images can be decoded.
    """
    model, preprocess = _resolve_model(model, preprocess)
    loader = make_loader(
        dataset, split, preprocess, batch_size=batch_size, workers=workers
    )
    folder = default_cache_folder() if folder is None else Path(folder)
    key = make_cache_key(model, preprocess, dataset, loader.examples)
    if key is None:
        logger.info(
            f"The features of {dataset.name} are not kept: its reader cannot be "
            "pickled, so a change of it would not be noticed. Define it at the top of "
            "a module."
        )
        return log_skipped(extract_features(model, loader), dataset, split)
    entry = _CacheEntry.from_key(folder, key)
    extracted = _load_entry(entry, loader.examples)
    if extracted is None:
        try:
            extracted = _compute_entry(entry, model, loader)
        except OSError as error:
            logger.info(
                f"The features of {dataset.name} could not be kept in {folder} "
                f"({error}) and are computed without. Free space, or name another "
                "cache folder."
            )
            extracted = extract_features(model, loader)
    return log_skipped(extracted, dataset, split)


def make_loader(
    dataset: Dataset,
    split: str,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int,
) -> Loader:
    """Return a loader of the images of a split, or of all splits, in order."""
    if not (dataset.select(split) if split else dataset.examples):
        splits = ", ".join(dataset.counts()) or "no images"
        raise ConfigError(
            f"The data has no split `{split}`: {dataset.name} has {splits}."
        )
    preprocess = preprocess.with_single_view()
    return split_loader(
        dataset, split, preprocess, batch_size=batch_size, workers=workers
    )


def log_skipped(
    extracted: ExtractedFeatures, dataset: Dataset, split: str
) -> ExtractedFeatures:
    """Log images that were left out, by an earlier audit too, and add them to `bad`."""
    before = [file for file in dataset.bad if not split or file.split == split]
    bad = (*before, *extracted.bad)
    if bad:
        logger.info(
            f"{len(bad)} of {len(bad) + len(extracted.ids)} images of "
            f"{split or dataset.name} cannot be decoded and are left out, first "
            f"{bad[0].path}: {bad[0].reason}"
        )
    return replace(extracted, bad=bad)


@dataclass(frozen=True, kw_only=True)
class _CacheEntry:
    """Key and files of an entry."""

    key: dict[str, Any]
    features_file: Path
    manifest: Path

    @classmethod
    def from_key(cls, folder: Path, key: dict[str, Any]) -> "_CacheEntry":
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        return cls(
            key=key,
            features_file=folder / f"{name}.f32",
            manifest=folder / f"{name}.json",
        )


_MANIFEST_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""Exceptions that reading a manifest with arbitrary content may raise."""


class _DamagedEntryError(Exception):
    """Reason why an entry cannot be used; never raised to a caller."""


def _load_entry(
    entry: _CacheEntry, examples: tuple[Example, ...]
) -> ExtractedFeatures | None:
    """Load the features of an entry; None if it is missing or damaged."""
    try:
        if entry.manifest.exists():
            return _read_entry(entry, examples)
        if entry.features_file.exists():
            raise _DamagedEntryError("its writing was not finished")
    except (OSError, _DamagedEntryError) as error:
        logger.info(
            f"The kept features {entry.features_file} cannot be used: {error}. They "
            "are computed again."
        )
    return None


def _read_entry(entry: _CacheEntry, examples: tuple[Example, ...]) -> ExtractedFeatures:
    try:
        manifest = json.loads(entry.manifest.read_bytes())
        key, digest = manifest["key"], manifest["sha256"]
        rows, dim = (int(side) for side in manifest["shape"])
        bad = {str(name): str(reason) for name, reason in manifest["bad"].items()}
    except _MANIFEST_ERRORS as error:
        raise _DamagedEntryError(f"{entry.manifest.name} is not a manifest") from error
    if key != entry.key:
        raise _DamagedEntryError(
            f"{entry.manifest.name} is of other weights or other data"
        )
    good = sum(example.id not in bad for example in examples)
    if dim < 1 or rows < 1 or rows != good:
        raise _DamagedEntryError(f"{entry.manifest.name} does not fit the images")
    size, expected = entry.features_file.stat().st_size, rows * dim * 4
    if size != expected:
        raise _DamagedEntryError(f"it has {size} bytes where {expected} were written")
    if sha256_file(entry.features_file) != digest:
        raise _DamagedEntryError("its bytes are not those that were written")
    return attach_targets(_open_memmap(entry.features_file, rows, dim), examples, bad)


def _compute_entry(
    entry: _CacheEntry, model: VisionModel, loader: Loader
) -> ExtractedFeatures:
    """Compute features into a file batch by batch, write the manifest, and map them."""
    folder = entry.features_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    digest = hashlib.sha256()
    shape = [0, 0]

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            batches = iter_features(model, loader)
            for x in log_progress(batches, len(loader.examples)):
                values = x.numpy().astype("<f4").tobytes()
                file.write(values)
                digest.update(values)
                shape[:] = [shape[0] + x.shape[0], x.shape[1]]

    write_atomic(entry.features_file, fill)
    bad = dict(loader.failures)
    manifest = {"key": entry.key, "shape": shape, "sha256": digest.hexdigest()}
    write_json(entry.manifest, {**manifest, "bad": bad})
    return attach_targets(
        _open_memmap(entry.features_file, *shape), loader.examples, bad
    )


def log_progress(batches: Iterator[Tensor], total: int) -> Iterator[Tensor]:
    """Yield the batches, and log now and then how many of all images are done."""
    started = logged = time.monotonic()
    done = 0
    for x in batches:
        yield x
        done += len(x)
        now = time.monotonic()
        if now - logged < PROGRESS_SECONDS or done >= total:
            continue
        logged, spent = now, now - started
        left = spent / done * (total - done)
        logger.info(
            f"features: {done:,} of {total:,} images in {spent:.0f} s, about "
            f"{left:.0f} s left"
        )


def _remove_abandoned(folder: Path) -> None:
    """Remove half-written files of killed processes, which may be large."""
    for file in folder.iterdir():
        # The folder may be the user's, with hidden files of other programs.
        if not HALF_WRITTEN.fullmatch(file.name):
            continue
        try:
            if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                file.unlink()
        except OSError:
            continue


def _open_memmap(file: Path, rows: int, dim: int) -> Float[Tensor, "examples dim"]:
    # Copy on write: torch needs writable memory, and the file must not change.
    return torch.from_numpy(np.memmap(file, dtype="<f4", mode="c", shape=(rows, dim)))


def _resolve_model(
    model: VisionModel | str | Path, preprocess: Preprocess | None
) -> tuple[VisionModel, Preprocess]:
    if isinstance(model, str | Path):
        loaded = vitral.weights.load(model, dtype=torch.float32)
        return loaded.model, preprocess or loaded.preprocess
    if preprocess is None:
        raise ConfigError(
            "A model does not know its pre-processing: give `preprocess` with it, or a "
            "path to its weights."
        )
    return model, preprocess
