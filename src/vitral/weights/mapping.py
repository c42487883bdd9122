"""Mappings between foreign and native tensors, each usable in both directions.

A layout is a list of mappings. A file's expected shapes follow from the native ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitral.weights.ledger import Action


@dataclass(frozen=True, kw_only=True)
class TensorMapping:
    """Mapping of one native tensor to the tensors of a file with the same numbers."""

    ours: str
    theirs: tuple[str, ...]
    action: Action
    to_native: Callable[[Sequence[Tensor]], Tensor]
    to_foreign: Callable[[Tensor], Sequence[Tensor]]
    accepted_shapes: tuple[tuple[int, ...], ...] = ()
    """Other shapes of the (single) foreign tensor that hold the same numbers."""

    def expected_shapes(self, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the foreign tensors for a native tensor of `shape`."""
        ours = torch.empty(tuple(shape), device="meta")
        return tuple(tuple(tensor.shape) for tensor in self.to_foreign(ours))


def _one(
    ours: str,
    theirs: str,
    action: Action,
    to_native: Callable[[Tensor], Tensor],
    to_foreign: Callable[[Tensor], Tensor],
) -> TensorMapping:
    """Map a tensor to one tensor of the file."""
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action=action,
        to_native=lambda foreign: to_native(foreign[0]),
        to_foreign=lambda tensor: [to_foreign(tensor)],
    )


def copy(ours: str, theirs: str | None = None) -> TensorMapping:
    """Map a tensor to itself, under the same or another name."""
    return _one(ours, theirs or ours, "copied", lambda it: it, lambda it: it)


def copy_layer(
    ours: str, theirs: str | None = None, *, bias: bool = True
) -> list[TensorMapping]:
    """Map a layer's weight and bias to themselves, perhaps under another name."""
    parts = ("weight", "bias") if bias else ("weight",)
    return [copy(f"{ours}.{part}", f"{theirs or ours}.{part}") for part in parts]


def zeros(ours: str, length: int) -> TensorMapping:
    """Map a vector that the file has not, because its model adds nothing there."""
    return TensorMapping(
        ours=ours,
        theirs=(),
        action="new",
        to_native=lambda foreign: torch.zeros(length),
        to_foreign=lambda tensor: [],
    )


def transpose(ours: str, theirs: str) -> TensorMapping:
    """Map a matrix that is stored transposed, as Flax does: (in, out)."""

    def turn(matrix: Tensor) -> Tensor:
        return matrix.T.contiguous()

    return _one(ours, theirs, "transposed", turn, turn)


def convolution(ours: str, theirs: str) -> TensorMapping:
    """Map a kernel stored as (height, width, in, out), as Flax and TensorFlow do."""
    return _one(
        ours,
        theirs,
        "transposed",
        lambda foreign: foreign.permute(3, 2, 0, 1).contiguous(),
        lambda kernel: kernel.permute(2, 3, 1, 0).contiguous(),
    )


def reshape(
    ours: str,
    theirs: str,
    native_shape: Sequence[int],
    foreign_shape: Sequence[int],
    *also: Sequence[int],
) -> TensorMapping:
    """Map the same numbers in the same order, in another shape.

    Args:
        native_shape: shape of the native tensor.
        foreign_shape: shape that is written, and expected.
        also: other shapes that are accepted.
    """
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="copied" if tuple(native_shape) == tuple(foreign_shape) else "reshaped",
        to_native=lambda foreign: foreign[0].reshape(tuple(native_shape)),
        to_foreign=lambda tensor: [tensor.reshape(tuple(foreign_shape))],
        accepted_shapes=tuple(tuple(shape) for shape in also),
    )


def concat(
    ours: str, theirs: Sequence[str], shares: Sequence[int] = ()
) -> TensorMapping:
    """Map tensors that are concatenated along the first axis, such as q, k and v.

    Args:
        shares: relative lengths of the parts; empty for equal parts.
    """
    parts = tuple(shares) or (1,) * len(theirs)

    def to_foreign(tensor: Tensor) -> list[Tensor]:
        unit = tensor.shape[0] // sum(parts)
        split = tensor.split([unit * part for part in parts])
        return [part.contiguous() for part in split]

    return TensorMapping(
        ours=ours,
        theirs=tuple(theirs),
        action="joined",
        to_native=lambda foreign: torch.cat(list(foreign), dim=0),
        to_foreign=to_foreign,
    )


def concat_without_key(ours: str, theirs: Sequence[str]) -> TensorMapping:
    """Map the biases of queries and values, those of the keys being zero."""

    def to_native(foreign: Sequence[Tensor]) -> Tensor:
        q, v = foreign
        return torch.cat([q, torch.zeros_like(q), v])

    return TensorMapping(
        ours=ours,
        theirs=tuple(theirs),
        action="joined",
        to_native=to_native,
        to_foreign=lambda bias: list(bias.chunk(3)[::2]),
    )


def tokens_as_map(ours: str, theirs: str, grid: Sequence[int]) -> TensorMapping:
    """Map a table (1, tokens, dim) that is stored as a map (1, dim, rows, columns)."""
    return _one(
        ours,
        theirs,
        "transposed",
        lambda foreign: foreign.flatten(2).transpose(1, 2).contiguous(),
        lambda table: table.transpose(1, 2).unflatten(2, tuple(grid)).contiguous(),
    )


def flax_heads(ours: str, theirs: Sequence[str], head_dim: int) -> TensorMapping:
    """Map kernels (in, heads, head_dim) or biases (heads, head_dim), concatenated."""

    def to_native(foreign: Sequence[Tensor]) -> Tensor:
        if foreign[0].ndim == 2:
            return torch.cat([part.reshape(-1) for part in foreign])
        return torch.cat([part.flatten(1).T for part in foreign])

    def to_foreign(tensor: Tensor) -> list[Tensor]:
        parts = tensor.chunk(len(theirs))
        if tensor.ndim == 1:
            return [part.reshape(-1, head_dim).contiguous() for part in parts]
        width = tensor.shape[1]
        return [part.T.reshape(width, -1, head_dim).contiguous() for part in parts]

    return TensorMapping(
        ours=ours,
        theirs=tuple(theirs),
        action="joined",
        to_native=to_native,
        to_foreign=to_foreign,
    )


def flax_out(ours: str, theirs: str, head_dim: int) -> TensorMapping:
    """Map the output kernel of attention, (heads, head_dim, out) in the file."""
    return _one(
        ours,
        theirs,
        "transposed",
        lambda foreign: foreign.flatten(0, 1).T.contiguous(),
        lambda kernel: kernel.T.reshape(-1, head_dim, kernel.shape[0]).contiguous(),
    )


def flat_patches(
    ours: str, theirs: str, patch: tuple[int, int], channels: int
) -> TensorMapping:
    """Map a patch embedding, or a norm of patches, flattened as row, column, channel.

    The native order is channel, row, column: (dim, channels, rows, columns) for the
    embedding, a vector for the norm.
    """
    rows, columns = patch
    length = math.prod(patch) * channels

    def to_native(foreign: Tensor) -> Tensor:
        lead = foreign.shape[:-1]
        split = foreign.reshape(*lead, rows, columns, channels).movedim(-1, -3)
        return split.contiguous() if lead else split.reshape(length)

    def to_foreign(tensor: Tensor) -> Tensor:
        lead = tensor.shape[:1] if tensor.ndim == 4 else ()
        split = tensor.reshape(*lead, channels, rows, columns).movedim(-3, -1)
        return split.reshape(*lead, length)

    return _one(ours, theirs, "transposed", to_native, to_foreign)
