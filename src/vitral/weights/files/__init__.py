"""Open and write weights files; nothing in them runs, and data are read on demand."""

from vitral.weights.files.open import open_file
from vitral.weights.files.sharded import PART, read_index
from vitral.weights.files.tensor_file import TensorFile, TensorInfo, align, with_names
from vitral.weights.files.write import save_sorted, write_npz, write_safetensors

__all__ = [
    "PART",
    "TensorFile",
    "TensorInfo",
    "align",
    "open_file",
    "read_index",
    "save_sorted",
    "with_names",
    "write_npz",
    "write_safetensors",
]
