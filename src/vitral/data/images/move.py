"""Apply a geometry to targets: masks, boxes and pictures of torchvision's types."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from vitral.data.images.affine import warp_image, warp_points
from vitral.data.images.geometry import CropBox, Geometry, Size
from vitral.data.images.window import is_giant, nearest_cells, resize_planes_window
from vitral.errors import ConfigError, ImageError
from vitral.nested import is_structure

_EDGES = [1, 0, 3, 2]
"""Order of a box's numbers with x and y exchanged, in each of these formats."""
_FORMATS = tuple(
    tv_tensors.BoundingBoxFormat[name] for name in ("XYXY", "XYWH", "CXCYWH")
)


def move(target: Any, geometry: Geometry) -> Any:
    """Return the target behind the geometry; see `Geometry.apply`."""
    if isinstance(target, tv_tensors.BoundingBoxes):
        return _move_boxes(target, geometry)
    if isinstance(target, tv_tensors.Mask | tv_tensors.Image | tv_tensors.Video):
        nearest = isinstance(target, tv_tensors.Mask)
        planes = _move_planes(target.as_subclass(Tensor), geometry, nearest=nearest)
        return tv_tensors.wrap(planes, like=target)
    if is_structure(target):
        return type(target)(*(move(field, geometry) for field in target))
    if isinstance(target, list | tuple):
        return type(target)(move(entry, geometry) for entry in target)
    if isinstance(target, dict):
        return {name: move(value, geometry) for name, value in target.items()}
    return target


def drop_small(boxes: Any, entries: Sequence[Any], smallest: float) -> tuple[Any, ...]:
    """Return the boxes of at least `smallest` pixels; see `drop_vanished`."""
    kept = (_sides(boxes) >= smallest).all(1)
    return _wrap_boxes(boxes.as_subclass(Tensor)[kept], boxes), *(
        _select(entry, kept) for entry in entries
    )


def _select(entry: Tensor | Sequence[Any], kept: Bool[Tensor, "boxes"]) -> Any:
    if isinstance(entry, Tensor):
        return entry[kept]
    return [item for item, stays in zip(entry, kept.tolist(), strict=True) if stays]


def _move_planes(
    planes: Shaped[Tensor, "*planes height width"],
    geometry: Geometry,
    *,
    nearest: bool,
) -> Shaped[Tensor, "*planes new_height new_width"]:
    _require_size(Size(*planes.shape[-2:]), geometry)
    steps, box, window = geometry.steps, geometry.box, geometry.window
    if steps.transpose:
        planes = planes.transpose(-1, -2)
    flipped = [-2] * steps.top_bottom + [-1] * steps.left_right
    planes = planes.flip(flipped) if flipped else planes
    planes = planes[..., box.top : box.bottom, box.left : box.right]
    planes = _resize(planes, geometry.resized, window, nearest=nearest)
    if geometry.flip:
        planes = planes.flip(-1)
    if not geometry.warp.is_identity:
        flat = planes.reshape(-1, *planes.shape[-2:])
        moved = warp_image(
            flat.float(), geometry.warp, "nearest" if nearest else "bilinear"
        )
        if not planes.is_floating_point():
            moved = moved.round()
        planes = moved.to(planes.dtype).reshape(planes.shape)
    return planes.contiguous()


def _resize(
    planes: Shaped[Tensor, "*planes height width"],
    size: Size,
    window: CropBox,
    *,
    nearest: bool,
) -> Shaped[Tensor, "*planes new_height new_width"]:
    """Resize, and return a window of the result."""
    old = Size(*planes.shape[-2:])
    if nearest and old != size:
        # The pixel under the centre of the new one. torchvision resizes a mask by the
        # pixel under its corner, which is half a pixel beside the picture.
        return planes[..., *nearest_cells(old, size, window)]
    if is_giant(old, size, window):
        flat = planes.reshape(-1, *old).float().numpy()
        part = resize_planes_window(flat, size, window, "bilinear")
        if not planes.is_floating_point():
            part = part.round()
        return part.to(planes.dtype).reshape(*planes.shape[:-2], *window.size)
    if old != size:
        if is_giant(old, Size(old.height, size.width), CropBox(0, 0, *size)):
            planes = F.resize(planes, [size.height, old.width], antialias=True)
        planes = F.resize(planes, list(size), antialias=True)
    return planes[..., window.top : window.bottom, window.left : window.right]


def _move_boxes(boxes: Any, geometry: Geometry) -> Any:
    if boxes.format not in _FORMATS:
        raise ConfigError(
            f"Boxes of the format {boxes.format.value} do not move with the picture: "
            "give XYXY, XYWH or CXCYWH."
        )
    _require_size(Size(*boxes.canvas_size), geometry)
    steps, box, window = geometry.steps, geometry.box, geometry.window
    boxes = F.clamp_bounding_boxes(boxes)
    if steps.transpose:
        height, width = boxes.canvas_size
        exchanged = boxes.as_subclass(Tensor)[..., _EDGES]
        boxes = _wrap_boxes(exchanged, boxes, Size(width, height))
    if steps.top_bottom:
        boxes = F.vertical_flip(boxes)
    if steps.left_right:
        boxes = F.horizontal_flip(boxes)
    boxes = F.crop(boxes, box.top, box.left, *box.size)
    boxes = F.resize(boxes, list(geometry.resized))
    boxes = F.crop(boxes, window.top, window.left, *window.size)
    if geometry.flip:
        boxes = F.horizontal_flip(boxes)
    if not geometry.warp.is_identity:
        boxes = _warp_boxes(boxes, geometry)
    return F.clamp_bounding_boxes(boxes)


def _warp_boxes(boxes: Any, geometry: Geometry) -> Any:
    """Return the hulls of the warped boxes, in the format of the boxes."""
    # The hull of a line has an area: what has vanished must not come back.
    visible = (_sides(boxes) > 0).all(1, keepdim=True)
    left, top, right, bottom = _to_corners(boxes).unbind(1)
    x, y = (
        torch.stack([left, right, right, left]),
        torch.stack([top, top, bottom, bottom]),
    )
    corners = torch.stack([x, y], dim=-1)
    if not corners.is_floating_point():
        corners = corners.float()
    moved = warp_points(corners, geometry.warp, *boxes.canvas_size)
    hull = torch.cat([moved.amin(0), moved.amax(0)], dim=1) * visible
    corners = tv_tensors.BoundingBoxes(
        hull,
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=boxes.canvas_size,
    )
    back = F.convert_bounding_box_format(corners, new_format=boxes.format)
    return _wrap_boxes(back.as_subclass(Tensor).to(boxes.dtype), boxes)


def _to_corners(boxes: Any) -> Shaped[Tensor, "boxes 4"]:
    """Return left, top, right and bottom."""
    corners = F.convert_bounding_box_format(
        boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY
    )
    return corners.as_subclass(Tensor)


def _sides(boxes: Any) -> Shaped[Tensor, "boxes 2"]:
    """Return width and height."""
    corners = _to_corners(boxes)
    return corners[:, 2:] - corners[:, :2]


def _wrap_boxes(values: Tensor, like: Any, canvas: Size | None = None) -> Any:
    size = tuple(canvas or like.canvas_size)
    return tv_tensors.BoundingBoxes(values, format=like.format, canvas_size=size)


def _require_size(size: Size, geometry: Geometry) -> None:
    if size != geometry.source:
        height, width = geometry.source
        raise ImageError(
            f"its target is {size.height} x {size.width} pixels (height x width) and "
            f"its picture {height} x {width}: both must have one size"
        )
