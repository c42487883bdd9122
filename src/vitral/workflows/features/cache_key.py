"""What the features of a data set depend on, as a key under which they are kept."""

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitral.atomic_io import sha256_file
from vitral.data import Dataset, Example, FileReader, Preprocess
from vitral.data.dataset import ClipReader
from vitral.data.video import frame_files
from vitral.models import VisionModel
from vitral.version import __version__
from vitral.weights.detect import FILES, resolve_path

FORMAT_VERSION = 1
"""Of the files that are kept; another number makes all of them anew."""
CONFIG_FILES = ("config.json", "preprocessor_config.json")
"""What says how the tensors of a folder are read."""


def make_cache_key(
    model: VisionModel,
    preprocess: Preprocess,
    dataset: Dataset,
    examples: tuple[Example, ...],
) -> dict[str, Any] | None:
    """What features depend on; None if the reader of the data cannot be pickled."""
    content = content_hash(dataset, examples)
    if content is None:
        return None
    return {
        "format": FORMAT_VERSION,
        "vitral": __version__,
        "model": f"{type(model).__name__} {model.config!r}",
        "weights": weights_hash(model),
        "preprocess": preprocess.hash,
        "data": replace(dataset, examples=examples).fingerprint(),
        "content": content,
    }


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all tensors of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # NumPy has no bfloat16, hence bytes.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_file_hash(weights: str | Path) -> str:
    """A hash of what weights hold: of their file, or of the files of their folder.

    Raises:
        WeightsError: there is nothing.
    """
    place = resolve_path(weights)
    files = [place]
    if place.is_dir():
        files = [place / name for name in (*FILES, *CONFIG_FILES)]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{sha256_file(file)} ".encode())
    return digest.hexdigest()


def content_hash(dataset: Dataset, examples: tuple[Example, ...]) -> str | None:
    """Stands for the pixels: the reader, and a file's size and time in their order;
    None if the reader cannot be pickled.

    The fingerprint of a data set knows names and labels alone, and two versions of a
    picture have the same name.
    """
    reader, root = dataset.reader, dataset.root
    if isinstance(reader, FileReader | ClipReader):
        # Its root can be written in several ways that mean the same folder.
        digest, root = hashlib.sha256(b"files"), reader.root
    else:
        try:
            digest = hashlib.sha256(pickle.dumps(reader, protocol=4))
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
    place = root.resolve() if root.exists() else root
    digest.update(os.fsencode(place))
    for example in examples:
        digest.update(json.dumps([example.id, _stamp(root / example.file)]).encode())
    return digest.hexdigest()


def _stamp(path: Path) -> list[Any]:
    """Size and time of a file, or of each frame in a folder; empty if it is gone."""
    try:
        if path.is_dir():
            return [[file.name, *_stamp(file)] for file in frame_files(path)]
        about = os.stat(path)
        return [about.st_size, about.st_mtime_ns]
    except (OSError, ValueError):
        return []
