"""Frozen features of a data set, kept on the disk and mapped when asked for again.

An entry is a file of float32 numbers and a manifest, written last, with what they
depend on and their SHA-256. Without a manifest that agrees, numbers are not believed.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import vitral.weights
from vitral.atomic_io import TEMPORARY_SUFFIX, sha256_file, write_atomic, write_json
from vitral.data import (
    BadFile,
    DataSet,
    Example,
    Loader,
    Preprocess,
    evaluation_transform,
)
from vitral.errors import ConfigError, DataError
from vitral.models import VisionModel
from vitral.workflows.features.cache_key import key_of
from vitral.workflows.inputs import one_view

ABANDONED_SECONDS = 3600.0
"""Age of a half-written file whose writer is surely gone: each batch renews it."""
HALF_WRITTEN = re.compile(
    rf"\.[0-9a-f]{{32}}\.(f32|json)\.\d+{re.escape(TEMPORARY_SUFFIX)}"
)


class Extracted(NamedTuple):
    """Features and labels, in the order of the data set."""

    x: Float[Tensor, "examples dim"]
    """float32; what was mapped from the disk may be changed, the disk does not."""
    y: Int[Tensor, " examples"]
    ids: tuple[str, ...]
    bad: tuple[BadFile, ...]
    """The images that could not be decoded; they have no row."""


def say(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr)


def default_folder() -> Path:
    """Where features are kept unless a folder is given."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vitral" / "features"


def cached_features(
    model: VisionModel | str | Path,
    preprocess: Preprocess | None,
    dataset: DataSet,
    split: str = "",
    folder: str | Path | None = None,
    *,
    batch_size: int = 32,
    workers: int = 0,
    announce: Callable[[str], None] = say,
) -> Extracted:
    """What feeds the head, from the disk if the same was computed before.

    The same: weights, settings of the model, pre-processing, labels, and names, sizes
    and times of the files. A folder that cannot be written costs a line, no error.

    Args:
        model: a model, used on its device, or what `vitral.weights.load` takes.
        preprocess: None takes that of the weights, where `model` is a path.
        split: one split of the data set; empty for all.
        folder: None for `default_folder()`.
        announce: gets a line for undecodable images, and one for an entry that is
            damaged.

    Raises:
        ConfigError: the split is empty, or a model came without pre-processing.
        DataError: none of its images can be decoded.
    """
    model, preprocess = _loaded(model, preprocess)
    loader = loader_of(dataset, split, preprocess, batch_size, workers)
    folder = default_folder() if folder is None else Path(folder)
    key = key_of(model, preprocess, dataset, loader.examples)
    if key is None:
        announce(
            f"The features of {dataset.name} are not kept: its reader cannot be "
            "pickled, so a change of it would not be noticed. Define it at the top of "
            "a module."
        )
        return reported(computed(model, loader), dataset, split, announce)
    entry = _Entry.of(folder, key)
    kept = _kept(entry, loader.examples, announce)
    if kept is None:
        try:
            kept = _written(entry, model, loader)
        except OSError as error:
            announce(
                f"The features of {dataset.name} could not be kept in {folder} "
                f"({error}) and are computed without. Free space, or name another "
                "cache folder."
            )
            kept = computed(model, loader)
    return reported(kept, dataset, split, announce)


def loader_of(
    dataset: DataSet, split: str, preprocess: Preprocess, batch_size: int, workers: int
) -> Loader:
    """The images of a split, or of all splits, in order.

    Raises:
        ConfigError: there are none.
    """
    examples = dataset.select(split) if split else dataset.examples
    if not examples:
        there = ", ".join(dataset.counts()) or "no images"
        raise ConfigError(
            f"The data has no split `{split}`: {dataset.name} has {there}."
        )
    return Loader(
        dataset=dataset,
        examples=examples,
        transform=evaluation_transform(one_view(preprocess)),
        batch_size=batch_size,
        workers=workers,
    )


def computed(model: VisionModel, loader: Loader) -> Extracted:
    """The features of a loader's images, in memory only.

    Raises:
        DataError: none of the images can be decoded.
    """
    x = torch.cat(list(_outputs(model, loader)))
    return _labelled(x, loader.examples, dict(loader.failures))


def reported(
    found: Extracted, dataset: DataSet, split: str, announce: Callable[[str], None]
) -> Extracted:
    """Say what was left out, also what an audit took from the data set before."""
    before = [file for file in dataset.bad if not split or file.split == split]
    bad = (*before, *found.bad)
    if bad:
        announce(
            f"{len(bad)} of {len(bad) + len(found.ids)} images of "
            f"{split or dataset.name} cannot be decoded and are left out, first "
            f"{bad[0].path}: {bad[0].reason}"
        )
    return found._replace(bad=bad)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The two files of some features."""

    key: dict[str, Any]
    numbers: Path
    about: Path

    @classmethod
    def of(cls, folder: Path, key: dict[str, Any]) -> "_Entry":
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        return cls(
            key=key, numbers=folder / f"{name}.f32", about=folder / f"{name}.json"
        )


_NOT_AS_WRITTEN = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What reading a manifest raises that holds anything at all."""


class _Damaged(Exception):
    """Why an entry is not believed; never seen by a user."""


def _kept(
    entry: _Entry, examples: tuple[Example, ...], announce: Callable[[str], None]
) -> Extracted | None:
    """The features of an entry; None if there is none that can be believed."""
    try:
        if entry.about.exists():
            return _read(entry, examples)
        if entry.numbers.exists():
            raise _Damaged("its writing was not finished")
    except (OSError, _Damaged) as error:
        announce(
            f"The kept features {entry.numbers} cannot be used: {error}. They are "
            "computed again."
        )
    return None


def _read(entry: _Entry, examples: tuple[Example, ...]) -> Extracted:
    try:
        about = json.loads(entry.about.read_bytes())
        key, digest = about["key"], about["sha256"]
        rows, dim = (int(side) for side in about["shape"])
        bad = {str(name): str(reason) for name, reason in about["bad"].items()}
    except _NOT_AS_WRITTEN as error:
        raise _Damaged(f"{entry.about.name} is not a manifest") from error
    if key != entry.key:
        raise _Damaged(f"{entry.about.name} is of other weights or other data")
    good = sum(example.id not in bad for example in examples)
    if dim < 1 or rows < 1 or rows != good:
        raise _Damaged(f"{entry.about.name} does not fit the images")
    size, wanted = entry.numbers.stat().st_size, rows * dim * 4
    if size != wanted:
        raise _Damaged(f"it has {size} bytes where {wanted} were written")
    if sha256_file(entry.numbers) != digest:
        raise _Damaged("its bytes are not those that were written")
    return _labelled(_mapped(entry.numbers, rows, dim), examples, bad)


def _written(entry: _Entry, model: VisionModel, loader: Loader) -> Extracted:
    """Compute features batch by batch into a file, then the manifest, and map them."""
    folder = entry.numbers.parent
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    digest = hashlib.sha256()
    shape = [0, 0]

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for x in _outputs(model, loader):
                values = x.numpy().astype("<f4").tobytes()
                file.write(values)
                digest.update(values)
                shape[:] = [shape[0] + x.shape[0], x.shape[1]]

    write_atomic(entry.numbers, fill)
    bad = dict(loader.failures)
    about = {"key": entry.key, "shape": shape, "sha256": digest.hexdigest(), "bad": bad}
    write_json(entry.about, about)
    return _labelled(_mapped(entry.numbers, *shape), loader.examples, bad)


def _remove_abandoned(folder: Path) -> None:
    """Half-written files of a process that was killed; they may be large."""
    for file in folder.iterdir():
        # The folder may be the user's, with hidden files of other programs.
        if not HALF_WRITTEN.fullmatch(file.name):
            continue
        try:
            if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                file.unlink()
        except OSError:
            continue


def _mapped(file: Path, rows: int, dim: int) -> Float[Tensor, "examples dim"]:
    # Copy on write: torch wants memory that may be written, the file must stay.
    return torch.from_numpy(np.memmap(file, dtype="<f4", mode="c", shape=(rows, dim)))


def _labelled(
    x: Tensor, examples: tuple[Example, ...], bad: dict[str, str]
) -> Extracted:
    good = [example for example in examples if example.id not in bad]
    return Extracted(
        x=x,
        y=torch.tensor([example.label[0] for example in good]),
        ids=tuple(example.id for example in good),
        bad=tuple(
            BadFile(
                path=example.id,
                reason=bad[example.id],
                split=example.split,
                label=example.label,
                target=example.target,
            )
            for example in examples
            if example.id in bad
        ),
    )


def _outputs(model: VisionModel, loader: Loader) -> Iterator[Tensor]:
    """float32 [batch, dim] on the CPU, batch by batch."""
    model.eval()
    like = next(model.parameters())
    images = 0
    for batch in loader.epoch(0):
        image = batch.image.to(like.device, like.dtype)
        with torch.no_grad():
            pooled = model.forward_pool(model.forward_features(image))
        yield pooled.float().cpu()
        images += len(batch.id)
    if not images:
        first = loader.failures[0]
        raise DataError(
            f"None of the {len(loader.examples)} images can be decoded, first "
            f"{first.id}: {first.reason}. Run `vitral data check`."
        )


def _loaded(
    model: VisionModel | str | Path, preprocess: Preprocess | None
) -> tuple[VisionModel, Preprocess]:
    if isinstance(model, str | Path):
        loaded = vitral.weights.load(model)
        return loaded.model, preprocess or loaded.preprocess
    if preprocess is None:
        raise ConfigError(
            "A model does not know its pre-processing: give `preprocess` with it, or a "
            "path to its weights."
        )
    return model, preprocess
