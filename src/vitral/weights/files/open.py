"""Open a weights file by its content, not by its name."""

from pathlib import Path

from vitral.errors import WeightsError
from vitral.weights.files import sharded
from vitral.weights.files.npz import SUFFIX, NpzFile
from vitral.weights.files.safetensors import SafetensorsFile
from vitral.weights.files.tensor_file import TensorFile, printable_name, printable_path
from vitral.weights.files.torch_checkpoint import PICKLE, open_legacy, open_zip
from vitral.weights.files.zip_archive import Archive

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
PROTOCOLS = range(2, 6)
"""Second byte of a pickle, after 0x80."""
TAR_OFFSET, TAR = 257, b"ustar"


def open_file(path: Path) -> TensorFile:
    """Open a .safetensors, a .npz, a checkpoint of torch.save, or an index of several.

    The content decides, not the name. Nothing in the file is run, and no data are read.

    Raises:
        WeightsError: missing, damaged, of another format, or it holds what weights
            never need.
    """
    try:
        if not path.is_file():
            raise WeightsError(
                f"No weights at {printable_path(path)}: give a .safetensors, .npz or "
                ".pth file."
            )
        if path.name.endswith(sharded.SUFFIX):
            return sharded.ShardedFile(path, _open)
        sharded.require_whole(path)
        return _open(path)
    except OSError as error:
        raise WeightsError(
            f"{printable_path(path)} cannot be read: {error.strerror}. Make it "
            "readable, or give another file."
        ) from error


def _open(path: Path) -> TensorFile:
    with path.open("rb") as file:
        head = file.read(TAR_OFFSET + len(TAR))
    return _open_by_content(path, head)


FOREIGN = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS in the place of the weights. Fetch them with `git lfs "
        "pull`, or from the page of the repository",
    ),
    (b"<!doctype", "a web page in the place of the weights. Fetch the file itself"),
    (b"<html", "a web page in the place of the weights. Fetch the file itself"),
    (b"GGUF", "a GGUF file, of llama.cpp, which is not opened. Give a .safetensors"),
    (
        b"\x89HDF",
        "an HDF5 file, as Keras writes, which is not opened. Give a .safetensors, an "
        ".npz or a checkpoint of torch.save",
    ),
)
"""First bytes of files that are often given, and what they are."""


def _open_by_content(path: Path, head: bytes) -> TensorFile:
    suffix = path.suffix.lower()
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return _open_zip(path)
    if head[:2] == b"\x1f\x8b" or head[TAR_OFFSET:] == TAR:
        description = (
            "a tar archive" if head[TAR_OFFSET:] == TAR else "compressed by gzip"
        )
        raise WeightsError(
            f"{printable_path(path)} is {description}, which is not opened. Unpack it "
            "and give the file of weights that is in it."
        )
    for start, description in FOREIGN:
        if head.lstrip()[: len(start)].lower() == start.lower():
            raise WeightsError(f"{printable_path(path)} is {description}.")
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        return SafetensorsFile(path)
    pickled = head[:1] == b"\x80" and head[1:2] and head[1] in PROTOCOLS
    if pickled or (head and suffix in PICKLES):
        return open_legacy(path)
    if suffix == ".safetensors":
        return SafetensorsFile(path)
    raise WeightsError(
        f"{printable_path(path)} is no weights file: it does not begin as "
        ".safetensors, .npz or a checkpoint of torch.save does. It may be cut short, "
        "or a page saved in its place; fetch it again."
    )


def _open_zip(path: Path) -> TensorFile:
    archive = Archive(path)
    names = list(archive.members)
    if any(name.count("/") == 1 and name.endswith(f"/{PICKLE}") for name in names):
        return open_zip(path, archive)
    other = [name for name in names if not name.endswith(SUFFIX)]
    if other or not names:
        content = f"the member {printable_name(other[0])}" if other else "no member"
        archive.refuse(
            f"it is a zip archive with {content}, so neither a .npz, which has arrays "
            f"only, nor a checkpoint of torch.save, which has {PICKLE}. Give the file "
            "of weights itself"
        )
    return NpzFile(path, archive)
