"""From a foreign tensor to ours and back: every rule can be read in both directions.

A layout is a list of these rules. Reading applies them one way, writing the other, and
the shapes that a file must have follow from our own, so nothing is said twice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitral.weights.ledger import Action


@dataclass(frozen=True, kw_only=True)
class TensorMapping:
    """One tensor of ours, and the tensors of a file that hold the same numbers."""

    ours: str
    theirs: tuple[str, ...]
    action: Action
    detail: str = ""
    to_native: Callable[[Sequence[Tensor]], Tensor]
    to_foreign: Callable[[Tensor], Sequence[Tensor]]
    accepted_shapes: tuple[tuple[int, ...], ...] = ()
    """Other shapes of the (single) foreign tensor that hold the same numbers."""

    def expected_shapes(self, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Shapes of the foreign tensors, when ours has `shape`."""
        ours = torch.empty(tuple(shape), device="meta")
        return tuple(tuple(tensor.shape) for tensor in self.to_foreign(ours))


def copy(ours: str, theirs: str | None = None) -> TensorMapping:
    """The same tensor, perhaps under another name."""
    return TensorMapping(
        ours=ours,
        theirs=(theirs or ours,),
        action="copied",
        to_native=lambda found: found[0],
        to_foreign=lambda tensor: [tensor],
    )


def transpose(ours: str, theirs: str) -> TensorMapping:
    """A matrix stored the other way round, as Flax does: (in, out)."""
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="transposed",
        to_native=lambda found: found[0].T.contiguous(),
        to_foreign=lambda tensor: [tensor.T.contiguous()],
    )


def convolution(ours: str, theirs: str) -> TensorMapping:
    """A kernel stored as (height, width, in, out), as Flax and TensorFlow do."""
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="transposed",
        to_native=lambda found: found[0].permute(3, 2, 0, 1).contiguous(),
        to_foreign=lambda tensor: [tensor.permute(2, 3, 1, 0).contiguous()],
    )


def reshape(
    ours: str,
    theirs: str,
    native_shape: Sequence[int],
    foreign_shape: Sequence[int],
    *also: Sequence[int],
) -> TensorMapping:
    """The same numbers in the same order, in another shape.

    Args:
        native_shape: our shape.
        foreign_shape: the shape that is written, and expected.
        also: other shapes that are accepted.
    """
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="copied" if tuple(native_shape) == tuple(foreign_shape) else "reshaped",
        to_native=lambda found: found[0].reshape(tuple(native_shape)),
        to_foreign=lambda tensor: [tensor.reshape(tuple(foreign_shape))],
        accepted_shapes=tuple(tuple(shape) for shape in also),
    )


def concat(
    ours: str, theirs: Sequence[str], shares: Sequence[int] = ()
) -> TensorMapping:
    """Tensors that are stacked along their first axis in ours, such as q, k and v.

    Args:
        shares: how ours is divided among them; none for equal parts.
    """
    parts = tuple(shares) or (1,) * len(theirs)

    def outwards(tensor: Tensor) -> list[Tensor]:
        one = tensor.shape[0] // sum(parts)
        split = tensor.split([one * part for part in parts])
        return [part.contiguous() for part in split]

    return TensorMapping(
        ours=ours,
        theirs=tuple(theirs),
        action="joined",
        to_native=lambda found: torch.cat(list(found), dim=0),
        to_foreign=outwards,
    )


def tokens_as_map(ours: str, theirs: str, grid: Sequence[int]) -> TensorMapping:
    """A table (1, tokens, dim), stored as a map (1, dim, rows, columns)."""
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="transposed",
        to_native=lambda found: found[0].flatten(2).transpose(1, 2).contiguous(),
        to_foreign=lambda tensor: [
            tensor.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()
        ],
    )


def flax_heads(ours: str, theirs: Sequence[str], head_dim: int) -> TensorMapping:
    """Kernels (in, heads, head_dim) or biases (heads, head_dim), stacked in ours."""

    def inwards(found: Sequence[Tensor]) -> Tensor:
        if found[0].ndim == 2:
            return torch.cat([part.reshape(-1) for part in found])
        return torch.cat([part.flatten(1).T for part in found])

    def outwards(tensor: Tensor) -> list[Tensor]:
        parts = tensor.chunk(len(theirs))
        if tensor.ndim == 1:
            return [part.reshape(-1, head_dim).contiguous() for part in parts]
        width = tensor.shape[1]
        return [part.T.reshape(width, -1, head_dim).contiguous() for part in parts]

    return TensorMapping(
        ours=ours,
        theirs=tuple(theirs),
        action="joined",
        to_native=inwards,
        to_foreign=outwards,
    )


def flax_out(ours: str, theirs: str, head_dim: int) -> TensorMapping:
    """The attention's output kernel, (heads, head_dim, out) in the file."""
    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="transposed",
        to_native=lambda found: found[0].flatten(0, 1).T.contiguous(),
        to_foreign=lambda tensor: [
            tensor.T.reshape(-1, head_dim, tensor.shape[0]).contiguous()
        ],
    )


def flat_patches(
    ours: str, theirs: str, patch: tuple[int, int], channels: int
) -> TensorMapping:
    """A patch embedding, or a norm of patches, whose vector runs row, column, channel.

    Ours runs channel, row, column: (dim, channels, rows, columns) for the embedding,
    one long vector for the norm.
    """
    rows, columns = patch
    length = math.prod(patch) * channels

    def inwards(found: Sequence[Tensor]) -> Tensor:
        lead = found[0].shape[:-1]
        split = found[0].reshape(*lead, rows, columns, channels).movedim(-1, -3)
        return split.contiguous() if lead else split.reshape(length)

    def outwards(tensor: Tensor) -> list[Tensor]:
        lead = tensor.shape[:1] if tensor.ndim == 4 else ()
        split = tensor.reshape(*lead, channels, rows, columns).movedim(-3, -1)
        return [split.reshape(*lead, length)]

    return TensorMapping(
        ours=ours,
        theirs=(theirs,),
        action="transposed",
        to_native=inwards,
        to_foreign=outwards,
    )
