"""Key of cached features: everything that they depend on."""

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
from vitral.data.contents import FileStat, stat_file
from vitral.data.dataset import ClipReader
from vitral.models import VisionModel
from vitral.version import __version__
from vitral.weights.detect import FILES, resolve_path
from vitral.weights.files import PART

FORMAT_VERSION = 2
"""Version of the cache files; a new number invalidates all entries."""
MAX_HASHED_BYTES = 256 * 2**20
"""Bytes of files that are hashed whole, which takes a second at most."""
HASHED_SAMPLE = 64
"""Files of a larger set whose bytes are hashed, beside size and time of all."""
CONFIG_FILES = ("config.json", "preprocessor_config.json")
"""Files that decide how the tensors of a weights folder are read."""


def make_cache_key(
    model: VisionModel,
    preprocess: Preprocess,
    dataset: Dataset,
    examples: tuple[Example, ...],
) -> dict[str, Any] | None:
    """Return the key of features; None if the reader of the data cannot be pickled."""
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
    """Return the SHA-256 of names, dtypes, shapes and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # NumPy has no bfloat16, hence bytes.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_file_hash(weights: str | Path) -> str:
    """Return a hash of a weights file, or of the files of a weights folder.

    Raises:
        WeightsError: the weights do not exist.
    """
    path = resolve_path(weights)
    files = [path]
    if path.is_dir():
        files = [path / name for name in (*FILES, *CONFIG_FILES)]
        files += sorted(it for it in path.iterdir() if PART.fullmatch(it.name))
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{sha256_file(file)} ".encode())
    return digest.hexdigest()


def content_hash(dataset: Dataset, examples: tuple[Example, ...]) -> str | None:
    """Return a stand-in for a hash of the pixels; None for an unpicklable reader.

    It covers the reader, size and time of each file in order, and the bytes of small
    data sets. The fingerprint of a data set covers names and labels only, and two
    versions of an image share a name.
    """
    reader, root = dataset.reader, dataset.root
    if isinstance(reader, FileReader | ClipReader):
        # Several spellings of its root mean the same folder.
        digest, root = hashlib.sha256(b"files"), reader.root
    else:
        try:
            digest = hashlib.sha256(pickle.dumps(reader, protocol=4))
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
    digest.update(os.fsencode(root.resolve() if root.exists() else root))
    files = [root / example.file for example in examples]
    stats = [stat_file(file) for file in files]
    for example, stat in zip(examples, stats, strict=True):
        digest.update(json.dumps([example.id, stat]).encode())
    for file in _choose_files(files, stats):
        digest.update(_hash_file(file))
    return digest.hexdigest()


def _choose_files(files: list[Path], stats: list[FileStat]) -> list[Path]:
    """Return the files whose bytes are hashed: all, or some that are spread evenly."""
    stored = [file for file in files if file.is_file()]
    if sum(max(size, 0) for size, _ in stats) <= MAX_HASHED_BYTES:
        return stored
    return stored[:: -(-len(stored) // HASHED_SAMPLE)]


def _hash_file(file: Path) -> bytes:
    try:
        return sha256_file(file).encode()
    except OSError:  # it went away; its size and time say so next time
        return b""
