"""big_vision's `.npz` files of models whose blocks were scanned: one array a kind.

The layers run along the first axis of every array of the blocks; otherwise these are
big_vision's names.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from vitral.weights import big_vision
from vitral.weights.source import Opened, Source
from vitral.weights.tensor_file import TensorFile

BLOCKS = "Transformer/encoderblock/"
NUMBERED = re.compile(r"(.*Transformer/encoderblock)_(\d+)(/.*)")


class Unstacked(TensorFile):
    """A file with stacked blocks, seen as if every block had its own arrays."""

    def __init__(self, file: TensorFile) -> None:
        self.path, self.format, self.metadata = file.path, file.format, file.metadata
        self._file = file
        self._last: tuple[str, Tensor] | None = None
        self._names: dict[str, tuple[str, int | None]] = {}
        for name in file.names():
            if BLOCKS in name:
                for layer in range(file.shape(name)[0]):
                    numbered = name.replace(BLOCKS, f"{BLOCKS[:-1]}_{layer}/")
                    self._names[numbered] = (name, layer)
            else:
                self._names[name] = (name, None)

    def names(self) -> list[str]:
        return list(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...]:
        stacked, layer = self._names[name]
        return self._file.shape(stacked)[0 if layer is None else 1 :]

    def dtype(self, name: str) -> torch.dtype:
        return self._file.dtype(self._names[name][0])

    def read(self, name: str) -> Tensor:
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
    big_vision.LAYOUT, title="big_vision_scan", detect=detect, read=read, pack=pack
)
