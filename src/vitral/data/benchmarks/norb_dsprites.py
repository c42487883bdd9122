"""Tasks from published arrays: smallNORB's binary matrices and dSprites' .npz.

smallNORB (LeCun et al., CVPR 2004): `info` holds instance, elevation, azimuth and
lighting of each pair of pictures; the left one is used. dSprites (Matthey et al.,
2017): `latents_classes` holds colour, shape, scale, orientation, x and y.
"""

import gzip
import shutil
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from vitral.atomic_io import write_atomic
from vitral.data.benchmarks.subsets import (
    PublishedSplit,
    SourceSplits,
    missing_file_error,
)
from vitral.data.example import Example
from vitral.data.images import DecodedImage, to_rgb
from vitral.errors import DataError

_NORB_DTYPES: dict[int, np.dtype[Any]] = {
    0x1E3D4C55: np.dtype("u1"),
    0x1E3D4C54: np.dtype("<i4"),
}
"""Type of a matrix's elements by its first four bytes."""
_NORB_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
DSPRITES_BINS = 16


@dataclass(frozen=True, kw_only=True)
class StackReader:
    """Read an example whose id is NAME/SPLIT/INDEX from a memory-mapped file."""

    files: tuple[tuple[str, Path], ...]
    """Split and file of each stack of grey pictures."""
    scale: int
    """Factor on pixels to reach 0..255."""

    def __call__(self, example: Example) -> DecodedImage:
        _, split, index = example.id.split("/")
        stack = _open_stack(dict(self.files)[split])
        gray = stack[int(index)] * np.uint8(self.scale)
        return to_rgb(Image.fromarray(np.ascontiguousarray(gray)))


def norb(root: Path, what: Literal["azimuth", "elevation"]) -> SourceSplits:
    """Read smallNORB labelled by azimuth (18 steps of 20 degrees) or elevation (9)."""
    if what == "azimuth":
        column, step, degrees = 2, 2, range(0, 360, 20)
    else:  # above the horizontal
        column, step, degrees = 1, 1, range(30, 75, 5)
    splits, files = {}, []
    for split, name in _NORB_FILES.items():
        pictures = _unpack(root / "smallnorb", f"{name}-dat.mat")
        info = read_norb(_unpack(root / "smallnorb", f"{name}-info.mat"))
        labels = np.asarray(info[:, column], dtype=np.int64) // step
        if len(read_norb(pictures)) != len(labels):
            raise DataError(
                f"{pictures} holds {len(read_norb(pictures))} pairs of pictures, but "
                f"its info file {len(labels)} rows. Fetch both again."
            )
        splits[split] = _make_split("norb", split, labels)
        files.append((split, pictures))
    return SourceSplits(
        classes=tuple(map(str, degrees)),
        splits=splits,
        reader=StackReader(files=tuple(files), scale=1),
    )


def read_norb(path: Path) -> np.ndarray:
    """Memory-map a binary matrix."""
    header = np.fromfile(path, dtype="<i4", count=2)
    dtype = _NORB_DTYPES.get(int(header[0])) if len(header) == 2 else None
    if dtype is None:
        raise DataError(
            f"{path} is not one of NORB's binary matrices of bytes or integers. Fetch "
            "the file again."
        )
    # At least three sizes are written; those beyond `dimensions` are 1.
    dimensions = int(header[1])
    sizes = np.fromfile(path, dtype="<i4", count=dimensions, offset=8)
    start = 8 + 4 * max(3, dimensions)
    expected = start + dtype.itemsize * int(sizes.astype(np.int64).prod())
    if path.stat().st_size != expected:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes, but its header announces "
            f"{expected:,}. Fetch the file again."
        )
    return np.memmap(path, dtype, "r", start, tuple(int(size) for size in sizes))


def dsprites(root: Path, what: Literal["location", "orientation"]) -> SourceSplits:
    """Read dSprites with the x position (32) or the orientation (40) in 16 bins.

    The pictures are unpacked once next to the archive, 3 GB, for random access.
    """
    archive = root / "dsprites" / DSPRITES
    if not archive.is_file():
        raise missing_file_error(
            archive, "https://github.com/google-deepmind/dsprites-dataset"
        )
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            latents = arrays["latents_classes"]
        pictures = archive.with_name("imgs.npy")
        if not pictures.is_file():
            with zipfile.ZipFile(archive) as file, file.open("imgs.npy") as member:
                _copy(member, pictures)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive} is not dSprites' archive with imgs and latents_classes: "
            f"{error}. Fetch the file again."
        ) from error
    column, values = (4, 32) if what == "location" else (3, 40)
    labels = latents[:, column].astype(np.int64) * DSPRITES_BINS // values
    return SourceSplits(
        classes=tuple(str(bin_index) for bin_index in range(DSPRITES_BINS)),
        splits={"": _make_split("dsprites", "all", labels)},
        reader=StackReader(files=(("all", pictures),), scale=255),
    )


def _make_split(name: str, split: str, labels: np.ndarray) -> PublishedSplit:
    indices = range(len(labels))
    return PublishedSplit(
        ids=[f"{name}/{split}/{index:06d}" for index in indices],
        keys=[str(index) for index in indices],
        labels=labels,
    )


@lru_cache(maxsize=4)
def _open_stack(path: Path) -> np.ndarray:
    """Memory-map grey pictures [pictures, height, width]."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return read_norb(path)[:, 0]


def _unpack(folder: Path, name: str) -> Path:
    """Return the path of a matrix, unpacked next to its .gz if need be."""
    path, packed = folder / name, folder / f"{name}.gz"
    if path.is_file():
        return path
    if not packed.is_file():
        raise missing_file_error(
            path, "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
        )
    try:
        with gzip.open(packed) as source:
            _copy(source, path)
    except (OSError, EOFError) as error:
        raise DataError(
            f"{packed} cannot be unpacked: {error}. Fetch the file again."
        ) from error
    return path


def _copy(source: Any, path: Path) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as target:
            shutil.copyfileobj(source, target)

    write_atomic(path, write)
