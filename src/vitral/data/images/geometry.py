"""Geometry from the upright original to the model's input, as plain numbers.

It is drawn or computed once, and applied to the picture and to targets alike.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from vitral.data.images.affine import NO_WARP, Warp


class Size(NamedTuple):
    """A height and a width in pixels."""

    height: int
    width: int


class CropBox(NamedTuple):
    """A rectangle in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def size(self) -> Size:
        return Size(self.bottom - self.top, self.right - self.left)


# The eight symmetries of a square; None is the identity.
SYMMETRIES = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)


class Symmetry(NamedTuple):
    """A symmetry of a square as steps, in this order."""

    transpose: bool
    top_bottom: bool
    left_right: bool


_STEPS = (
    Symmetry(False, False, False),
    Symmetry(True, True, False),
    Symmetry(False, True, True),
    Symmetry(True, False, True),
    Symmetry(False, False, True),
    Symmetry(False, True, False),
    Symmetry(True, False, False),
    Symmetry(True, True, True),
)
"""Of each entry of SYMMETRIES."""


class VisibleBox(NamedTuple):
    """A part of an image as shares of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Steps from the upright original to the model's input, in the order of the fields.

    A picture that is larger than the model's input is first resized, then cut: `box`
    is a part of the turned original, and `window` a part of that part, resized.
    """

    source: Size
    """Of the upright original."""
    symmetry: int = 0
    """Index into SYMMETRIES."""
    box: CropBox
    """The part that is resized, in pixels of the original in its symmetry."""
    resized: Size
    """The size to which that part is resized."""
    window: CropBox
    """The part of it that stays; its size is that of the model's input."""
    flip: bool = False
    """True exchanges left and right."""
    warp: Warp = NO_WARP
    """Shift, rotation and zoom, edges repeated."""

    @property
    def steps(self) -> Symmetry:
        """Return the symmetry as steps."""
        return _STEPS[self.symmetry]

    def apply(self, target: Any) -> Any:
        """Move a target with the picture.

        Args:
            target: tv_tensors of torchvision, alone or in tuples, lists and
                dictionaries. A `Mask` [..., height, width] takes the nearest pixel,
                `Image` and `Video` are resized bilinearly, `BoundingBoxes` become
                their axis-aligned hull and are clipped: those that vanish have no area
                (`drop_vanished`). Anything else stays as it is.

        Raises:
            ImageError: the target does not have the size of the picture.
        """
        # torchvision takes a second to import, which labels do not need.
        from vitral.data.images.move import move

        return move(target, self)

    def visible_box(self) -> VisibleBox:
        """Return where the model's input lies in the upright original.

        The warp, which repeats edges, is left out.
        """
        turned = turn_size(self.source, self.symmetry)
        left, right = _visible(
            (self.box.left, self.box.right, turned.width),
            (self.window.left, self.window.right, self.resized.width),
        )
        top, bottom = _visible(
            (self.box.top, self.box.bottom, turned.height),
            (self.window.top, self.window.bottom, self.resized.height),
        )
        # The steps of the symmetry, backwards.
        if self.steps.left_right:
            left, right = 1 - right, 1 - left
        if self.steps.top_bottom:
            top, bottom = 1 - bottom, 1 - top
        if self.steps.transpose:
            left, top, right, bottom = top, left, bottom, right
        return VisibleBox(left, top, right, bottom)


def drop_vanished(boxes: Any, *entries: Any, smallest: float = 1.0) -> tuple[Any, ...]:
    """Return the `BoundingBoxes` that a geometry left, and the entries of those rows.

    Args:
        entries: tensors with the boxes on their first axis, or lists with one entry a
            box.
        smallest: pixels that a box has at least in height and width.
    """
    from vitral.data.images.move import drop_small

    return drop_small(boxes, entries, smallest)


def turn_size(size: Size, symmetry: int) -> Size:
    """Return the size of an image in one of SYMMETRIES."""
    return Size(size.width, size.height) if _STEPS[symmetry].transpose else size


def _visible(
    box: tuple[int, int, int], window: tuple[int, int, int]
) -> tuple[float, float]:
    """Return start and end of a window in a box, each (start, end, full length)."""
    scale = (box[1] - box[0]) / box[2]
    start = box[0] / box[2] + window[0] / window[2] * scale
    return start, start + (window[1] - window[0]) / window[2] * scale
