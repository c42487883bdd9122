"""Galleries of answers: pictures and maps within a budget of characters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vitral.document.blocks import Example, Gallery
from vitral.document.images import Picture, thumbnail, tint_filmstrip, tint_thumbnail
from vitral.document.inspection_store import StoredInspection
from vitral.document.numbers import Text
from vitral.document.run_folder import RunFolder
from vitral.errors import ImageError

ImageLoader = Callable[[str], Image.Image | None]
_MAPS = {
    "rollout": (
        "The second picture is what enters the model, coloured by attention rollout: "
        "how much each patch reaches what the head reads, through all layers. Each map "
        "runs from its own least (dark) to its own greatest value (yellow)."
    ),
    "grad_cam": (
        "The second picture is what enters the model, coloured by Grad-CAM: which "
        "cells of the last feature map speak for the answered class. Each map runs "
        "from its own least (dark) to its own greatest value (yellow)."
    ),
}
_CLIP_MAPS = (
    "Above are the frames that enter the model, at most eight, from the first to the "
    "last; below them the same frames coloured by attention rollout: how much each "
    "patch of each frame reaches what the head reads, through all steps of attention. "
    "Each map runs from its least (dark) to its greatest value (yellow) over all "
    "frames of its clip."
)


@dataclass(frozen=True, slots=True)
class PictureSources:
    """Functions of an example's id that return a picture. None: no such function."""

    images: ImageLoader | None = None
    """The original image."""
    views: ImageLoader | None = None
    """The preprocessed image, which the map belongs to."""


@dataclass(frozen=True, slots=True)
class PageBudget:
    """Room that a page has for the sections of a task."""

    pictures: int
    """Characters of photographs."""
    rows: int
    """Rows of a long table."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that a gallery shows."""

    id: str
    """Id of the example."""
    alt: str
    """Alternative text of its picture, after the id."""
    caption: Text


def build_gallery(
    run: RunFolder[Any],
    answers: Sequence[Answered],
    sources: PictureSources,
    budget: int,
) -> Gallery:
    """Return answers with their pictures and stored maps, in order.

    Args:
        budget: characters of photographs; what comes after has no picture.
    """
    items = []
    for answer in answers:
        alt = f"{answer.id}: {answer.alt}"
        shown: list[Picture | None] = []
        for picture in (
            _picture(answer.id, alt, sources),
            _map_picture(run.inspection, answer.id, sources),
        ):
            size = 0 if picture is None else len(picture.source)
            shown.append(picture if size <= budget else None)
            budget -= size if size <= budget else 0
        items.append(Example(answer.caption, answer.id, shown[0], shown[1]))
    of_clips = run.inspection is not None and run.inspection.has_frames
    gallery = Gallery(items)
    return Gallery(items, strips=of_clips and gallery.with_maps)


def maps_note(run: RunFolder[Any]) -> str:
    """Return the sentence next to the first pictures with maps; empty without maps."""
    stored = run.inspection
    if stored is None or not stored.maps:
        return ""
    if stored.has_frames:
        return _CLIP_MAPS
    return _MAPS.get(str(stored.document.get("method")), "")


def _picture(name: str, alt: str, sources: PictureSources) -> Picture | None:
    image = _load_image(sources.images, name)
    return None if image is None else thumbnail(image, alt)


def _map_picture(
    stored: StoredInspection | None, name: str, sources: PictureSources
) -> Picture | None:
    heat = stored.maps.get(name) if stored is not None else None
    image = None if heat is None else _load_image(sources.views, name)
    if heat is None or image is None:
        return None
    return (
        tint_thumbnail(image, heat) if heat.ndim == 2 else tint_filmstrip(image, heat)
    )


def _load_image(load: ImageLoader | None, name: str) -> Image.Image | None:
    try:
        return load(name) if load is not None else None
    except (OSError, ImageError):
        return None
