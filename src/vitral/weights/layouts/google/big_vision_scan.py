"""big_vision's .npz files of models with scanned blocks: one array per parameter.

The layers run along the first axis of the blocks' arrays. Otherwise the names are
big_vision's.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import with_names
from vitral.weights.layouts.google import big_vision

BLOCKS = "Transformer/encoderblock/"
NUMBERED = re.compile(r"(.*Transformer/encoderblock)_(\d+)(/.*)")


def detect(opened: LayoutInput) -> bool:
    """Return whether the blocks are stacked, and otherwise have big_vision's names."""
    stacked = any(BLOCKS in name for name in opened.file.names())
    return stacked and big_vision.detect(_unstack(opened))


def read(opened: LayoutInput) -> WeightsSource:
    return replace(big_vision.read(_unstack(opened)), layout=LAYOUT.title)


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack the arrays of all blocks, layer by layer."""
    packed: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := NUMBERED.fullmatch(name):
            layers = stacks.setdefault(match[1] + match[3], {})
            layers[int(match[2])] = tensor
        else:
            packed[name] = tensor
    for name, layers in stacks.items():
        packed[name] = torch.stack([layers[layer] for layer in range(len(layers))])
    return packed


def _unstack(opened: LayoutInput) -> LayoutInput:
    """Give every block its own arrays."""
    file = opened.file
    names: dict[str, str | tuple[str, int]] = {}
    for name in file.names():
        shape = file.shape(name)
        if BLOCKS in name and shape:
            for layer in range(shape[0]):
                numbered = name.replace(BLOCKS, f"{BLOCKS[:-1]}_{layer}/")
                names[numbered] = (name, layer)
        else:
            names[name] = name
    return replace(opened, file=with_names(file, names))


LAYOUT = replace(
    big_vision.LAYOUT,
    name="big_vision_scan",
    title="big_vision_scan",
    detect=detect,
    read=read,
    pack=pack,
)
