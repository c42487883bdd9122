"""The worst errors of a run: the most confident wrong answers, with their pictures."""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from vitral.errors import ImageError
from vitral.report.gather import RunFolder
from vitral.report.numbers import Number, pointer, share
from vitral.report.pictures import Picture, thumbnail

MOST_ERRORS = 24
Images = Callable[[str], Image.Image | None]


class Error(NamedTuple):
    """One confidently wrong answer."""

    path: str
    true: str
    predicted: str
    confidence: Number
    picture: Picture | None


class Errors(NamedTuple):
    """The worst errors of a split; `note` says what is missing."""

    split: str
    items: list[Error]
    note: str


def worst_errors(run: RunFolder, images: Images | None, budget: int) -> Errors | None:
    """The most confident wrong answers, with pictures until `budget` characters."""
    split = run.headline
    if split is None:
        return None
    table = run.predictions.get(split)
    if table is None:
        return Errors(split, [], f"predictions/{split}.csv is missing.")
    wrong = [
        (i, row)
        for i, row in enumerate(table)
        if not row.correct and row.confidence is not None
    ]
    wrong.sort(key=lambda pair: (-(pair[1].confidence or 0.0), pair[1].path))
    if not wrong:
        return Errors(split, [], "No decoded image was answered wrongly.")
    items = []
    for i, row in wrong[:MOST_ERRORS]:
        alt = f"{row.path}: a {row.label} taken for {row.predicted}"
        picture = _picture(images, row.path, alt)
        if picture is not None and len(picture.source) > budget:
            picture = None
        budget -= len(picture.source) if picture else 0
        source = pointer(f"predictions/{split}.csv", i, "confidence")
        items.append(
            Error(
                row.path,
                row.label,
                row.predicted,
                share(row.confidence, source),
                picture,
            )
        )
    return Errors(split, items, "")


def _picture(images: Images | None, path: str, alt: str) -> Picture | None:
    try:
        image = images(path) if images is not None else None
    except (OSError, ImageError):
        return None
    return None if image is None else thumbnail(image, alt)
