"""Pre-processing in Hugging Face's terms, read and written: preprocessor_config.json.

    ViTImageProcessor    size {height, width}                        squash
    DeiTImageProcessor   size {height, width}, crop_size             squash, crop
    BitImageProcessor    size {shortest_edge}, crop_size             keep aspect, crop

All of them low-pass before shrinking.
"""

import math
from collections.abc import Mapping
from typing import Any

from vitral.data import Preprocess
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts.huggingface.fields import read_processor
from vitral.weights.layouts.json_fields import three
from vitral.weights.numerics import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
)

FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the supported filters."""
HALVES = {"image_mean": HALF, "image_std": HALF}
IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
KINETICS = {"image_mean": (0.45, 0.45, 0.45), "image_std": (0.225, 0.225, 0.225)}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


CUT = {"size": {"shortest_edge": 256}, "crop_size": _square(224)}
CONVENTIONS: dict[str, dict[str, Any]] = {
    "vit": {"size": _square(224), "resample": 2, **HALVES},
    "deit": {**CUT, "size": _square(256), "resample": 3, **IMAGENET},
    "vit_mae": {"size": _square(224), "resample": 3, **IMAGENET},
    "ijepa": {"size": _square(224), "resample": 3, **IMAGENET},
    "dinov3_vit": {"size": _square(224), "resample": 2, **IMAGENET},
    "beit": {"size": _square(224), "resample": 2, **HALVES},
    "vit_msn": {"size": _square(224), "resample": 2, **IMAGENET},
    "dinov2": {**CUT, "resample": 3, **IMAGENET},
    "bit": {
        "size": {"shortest_edge": 448},
        "crop_size": _square(448),
        "resample": 2,
        **HALVES,
    },
    "clip": {
        "size": {"shortest_edge": 224},
        "crop_size": _square(224),
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
    "aimv2": {
        "size": {"shortest_edge": 224},
        "crop_size": _square(224),
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
    "timesformer": {**CUT, "size": {"shortest_edge": 224}, "resample": 2, **KINETICS},
}
"""Defaults of the published models of each type."""


def read(
    opened: LayoutInput, model_type: str, image_size: tuple[int, int]
) -> Preprocess:
    """Read the pre-processing; missing fields are as for such models.

    Args:
        image_size: pixels that the position table is made for.
    """
    notes = opened.notes
    convention = CONVENTIONS.get(model_type.removesuffix("_with_registers"), {})
    given = read_processor(opened)
    fields = given or convention
    resize, made, fraction = _geometry(fields, convention, image_size, notes)
    if not given:
        notes.append(
            f"images as for the published models of type {model_type} assumed: there "
            "is no preprocessor_config.json"
        )
    elif made != image_size:
        notes.append(
            f"its image processor makes {made[0]} x {made[1]} pixels, but the "
            f"positions are those of {image_size[0]} x {image_size[1]}, which is what "
            "images are brought to: give `image_size` for the other"
        )
    mean, std = _statistics(fields, convention)
    return Preprocess.from_dict(
        {
            "image_size": image_size,
            "resize": resize,
            "crop_fraction": fraction,
            "interpolation": _filter(fields, convention, notes),
            "antialias": True,
            "mean": mean,
            "std": std,
        }
    )


def write(preprocess: Preprocess, notes: list[str]) -> dict[str, Any]:
    """Return the fields of preprocessor_config.json; what it cannot hold is noted."""
    height, width = preprocess.image_size
    fraction = preprocess.crop_fraction
    crop = {"height": height, "width": width}
    full = {name: math.floor(side / fraction) for name, side in crop.items()}
    numbers = {name: code for code, name in FILTERS.items()}
    fields: dict[str, Any] = {
        "do_resize": True,
        "resample": numbers[preprocess.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if not preprocess.antialias:
        notes.append(
            "Hugging Face's image processors low-pass before they shrink an image, "
            "this model's pre-processing does not: pixels differ a little"
        )
    if preprocess.resize == "crop":
        if height != width:
            notes.append(
                "Hugging Face's image processors resize the shorter side before they "
                f"cut, which for {height} x {width} pixels keeps another part of an "
                "image"
            )
        processor = "BitImageProcessor"
        fields |= {"size": {"shortest_edge": max(full.values())}, "crop_size": crop}
    elif fraction < 1:
        processor = "DeiTImageProcessor"
        fields |= {"size": full, "crop_size": crop}
    else:
        processor = "ViTImageProcessor"
        fields["size"] = crop
    return {
        "image_processor_type": processor,
        "do_center_crop": "crop_size" in fields,
        **fields,
    }


def _geometry(
    fields: Mapping[str, Any],
    convention: Mapping[str, Any],
    image_size: tuple[int, int],
    notes: list[str],
) -> tuple[str, tuple[int, int], float]:
    """Return the resizing, its size, and the fraction that a crop keeps."""
    size = fields.get("size", convention.get("size"))
    crops = fields.get("do_center_crop", "crop_size" in fields)
    crop = fields.get("crop_size", convention.get("crop_size")) if crops else None
    crop = sides(crop)
    if not fields.get("do_resize", True):
        notes.append(
            "its image processor does not resize: images are squashed to the size of "
            "the positions"
        )
        return "squash", image_size, 1.0
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if isinstance(size, int) and crop is not None and "size" in fields:
        # One number is the shorter side for Bit, and both sides for ViT and DeiT.
        processor = fields.get(
            "image_processor_type", fields.get("feature_extractor_type")
        )
        by_edge = "shortest_edge" in convention.get("size", {})
        if processor is not None:
            by_edge = not str(processor).startswith(("ViT", "DeiT", "Beit"))
        edge = size if by_edge else None
    if edge is not None:
        if crop is None:
            notes.append(
                "its image processor cuts nothing, so that images keep their aspect "
                "ratio: here the centre is cut to the size of the positions"
            )
            return "crop", image_size, 1.0
        if crop[0] != crop[1]:
            notes.append(
                f"its image processor cuts {crop[0]} x {crop[1]} pixels of an image "
                f"whose shorter side is {edge}: here the same share of each side"
            )
        return "crop", crop, _fraction(max(crop), edge)
    full = sides(size)
    if full is None:
        notes.append(
            f"its image processor resizes by {size}, which vitral does not do: images "
            "are squashed to the size of the positions"
        )
        return "squash", image_size, 1.0
    if crop is None:
        return "squash", full, 1.0
    return "squash", crop, _fraction(crop[0], full[0])


def _fraction(cut: int, full: int) -> float:
    """Return cut / full, adjusted so that `cut` over it floors to `full`."""
    share = min(cut / full, 1.0)
    return (
        share if math.floor(cut / share) == full or full < cut else cut / (full + 0.5)
    )


def sides(size: Any) -> tuple[int, int] | None:
    """Return (height, width) of a size field; None if it names no two sides."""
    if isinstance(size, Mapping):
        return (int(size["height"]), int(size["width"])) if "height" in size else None
    if isinstance(size, int):
        return size, size
    return None if size is None else (int(size[0]), int(size[1]))


def _filter(
    fields: Mapping[str, Any], convention: Mapping[str, Any], notes: list[str]
) -> str:
    code = fields.get("resample", convention.get("resample", 2))
    if code not in FILTERS:
        notes.append(
            f"its image processor resizes with Pillow's filter {code}, which vitral "
            "does not have: bicubic instead"
        )
    return FILTERS.get(code, "bicubic")


def _statistics(
    fields: Mapping[str, Any], convention: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation on the 0..1 scale, whatever the file's scale."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.get("do_normalize", True):
        mean = three(fields.get("image_mean", convention.get("image_mean", HALF)))
        std = three(fields.get("image_std", convention.get("image_std", HALF)))
    scale = 1.0
    if not fields.get("do_rescale", True):
        scale = 255.0
    elif "rescale_factor" in fields:
        scale = 255.0 * float(fields["rescale_factor"])
    if math.isclose(scale, 1.0, rel_tol=1e-6):
        return mean, std
    return tuple(v / scale for v in mean), tuple(v / scale for v in std)
