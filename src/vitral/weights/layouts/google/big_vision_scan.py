"""big_vision's `.npz` files of models whose blocks were scanned: one array a kind.

The layers run along the first axis of every array of the blocks; otherwise these are
big_vision's names.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from vitral.weights.checkpoint_facts import Opened, Source
from vitral.weights.files import Entry, TensorFile
from vitral.weights.layouts.google import big_vision

BLOCKS = "Transformer/encoderblock/"
NUMBERED = re.compile(r"(.*Transformer/encoderblock)_(\d+)(/.*)")


class Unstacked(TensorFile):
    """A file with stacked blocks, seen as if every block had its own arrays."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self._last: tuple[str, Tensor] | None = None
        self._names: dict[str, tuple[str, int | None]] = {}
        entries: dict[str, Entry] = {}
        for name in file.names():
            shape, dtype = file.shape(name), file.dtype(name)
            if BLOCKS in name and shape:
                for layer in range(shape[0]):
                    numbered = name.replace(BLOCKS, f"{BLOCKS[:-1]}_{layer}/")
                    self._names[numbered] = (name, layer)
                    entries[numbered] = Entry(shape[1:], dtype)
            else:
                self._names[name] = (name, None)
                entries[name] = Entry(shape, dtype)
        super().__init__(file.path, entries, file.metadata)
        self.format = file.format

    def _data(self, name: str) -> Tensor:
        stacked, layer = self._names[name]
        if layer is None:
            return self._file.read(stacked)
        if self._last is None or self._last[0] != stacked:
            self._last = (stacked, self._file.read(stacked))
        return self._last[1][layer]


def detect(opened: Opened) -> bool:
    """Whether the blocks are stacked, and otherwise have big_vision's names."""
    stacked = any(BLOCKS in name for name in opened.file.names())
    return stacked and big_vision.detect(_unstacked(opened))


def read(opened: Opened) -> Source:
    """The Vision Transformer that the arrays describe."""
    return replace(big_vision.read(_unstacked(opened)), layout=LAYOUT.title)


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of all blocks stacked, layer by layer."""
    whole: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := NUMBERED.fullmatch(name):
            layers = stacks.setdefault(match[1] + match[3], {})
            layers[int(match[2])] = tensor
        else:
            whole[name] = tensor
    for name, layers in stacks.items():
        whole[name] = torch.stack([layers[layer] for layer in range(len(layers))])
    return whole


def _unstacked(opened: Opened) -> Opened:
    return replace(opened, file=Unstacked(opened.file))


LAYOUT = replace(
    big_vision.LAYOUT,
    name="big_vision_scan",
    title="big_vision_scan",
    detect=detect,
    read=read,
    pack=pack,
)
