"""Masked pictures and what a model drew in the gaps (arXiv 2111.06377, figure 2)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import Several, picture, pictures, same_number, table
from vitral.plots.panels import caption, middle_aspect, panels, show
from vitral.plots.style import Plot, counted, look, percent, plain

MOST_ROWS = 24
_GAP = 0.62  # the grey of a hidden patch, which few pictures have as a flat area
_COLUMNS = ("original", "masked", "reconstruction")


def reconstructions(
    images: Several,
    hidden: Several,
    restored: Several,
    *,
    title: str = "Hidden patches, drawn",
    note: str = "",
    captions: Sequence[str] = _COLUMNS,
) -> Plot:
    """A row for each image: original, masked, reconstruction; at most 24 of them.

    Args:
        images: [height, width, 3] each, integers 0..255 or floats 0..1.
        hidden: [rows, columns] each, True where a patch was hidden.
        restored: [height, width, 3] each, 0..1 (or 0..255 as integers); values that a
            model drew beyond are cut.
        note: a line at the foot, such as whose contrast the drawn patches have.
        captions: what stands over the three columns.

    Raises:
        DataError: the numbers of images, masks and reconstructions differ, or one of
            them cannot be drawn.
    """
    same_number("the masks", len(hidden), len(images))
    same_number("the reconstructions", len(restored), len(images))
    if len(captions) != len(_COLUMNS):
        raise DataError(f"there are three columns to name: got {len(captions)} names.")
    parts = pictures(images[:MOST_ROWS])
    triples = []
    for i, (truth, part) in enumerate(zip(images, parts, strict=False)):
        drawn = _cut(restored[i], f"reconstruction {i}")
        _same_shape(i, np.shape(truth), np.shape(restored[i]))
        gaps = _mask(hidden[i], i)
        triples.append((part, masked(part, gaps), drawn))
    rest = len(images) - len(parts)
    shown = f" The first {len(parts)} of {len(images)}." if rest else ""
    with look():
        drawn_on = panels(
            3 * len(parts),
            3,
            middle_aspect(parts),
            plain(title, 80),
            note=f"{plain(note, 200)}{shown}".strip(),
            captions=False,
            heading=True,
            widest=1.5,
            tallest=1.5,
        )
        for i, triple in enumerate(triples):
            for axes, pixels in zip(
                drawn_on.axes[3 * i : 3 * i + 3], triple, strict=True
            ):
                show(axes, pixels)
        for axes, text in zip(drawn_on.axes, captions, strict=False):
            caption(axes, text, drawn_on.letters, quiet=True)
    share = float(np.mean([_mask(mask, i).mean() for i, mask in enumerate(hidden)]))
    return Plot(
        drawn_on.figure,
        f"{plain(title, 80)}: {counted(len(parts), 'picture')}, each as "
        f"{', '.join(plain(text, 60) for text in captions)}. {percent(share)} of the "
        "patches were hidden.",
    )


def masked(image: ArrayLike, hidden: ArrayLike) -> Float[np.ndarray, "height width 3"]:
    """The picture with its hidden patches grey: pixels in 0..1.

    Args:
        hidden: [rows, columns], True where a patch is hidden.
    """
    pixels, gaps = picture(image), _mask(hidden, 0)
    rows = np.arange(pixels.shape[0]) * gaps.shape[0] // pixels.shape[0]
    columns = np.arange(pixels.shape[1]) * gaps.shape[1] // pixels.shape[1]
    return np.where(gaps[rows][:, columns, None], _GAP, pixels)


def _mask(hidden: ArrayLike, number: int) -> Bool[np.ndarray, "rows columns"]:
    values = table(hidden, f"mask {number}", "rows", "columns")
    if not np.isin(values, (0, 1)).all():
        raise DataError(
            f"mask {number} must be True where a patch is hidden and False elsewhere: "
            f"got values from {values.min():.3g} to {values.max():.3g}."
        )
    return values.astype(bool)


def _cut(image: ArrayLike, name: str) -> Float[np.ndarray, "height width 3"]:
    """A drawn picture, its values beyond 0..1 cut."""
    if np.issubdtype(np.asarray(image).dtype, np.integer):
        return picture(image, name)
    return picture(table(image, name, "height", "width", "3 colours").clip(0, 1), name)


def _same_shape(number: int, image: tuple[int, ...], restored: tuple[int, ...]) -> None:
    if image != restored:
        raise DataError(
            f"reconstruction {number} must be as large as its image, {list(image)}: "
            f"got {list(restored)}."
        )
