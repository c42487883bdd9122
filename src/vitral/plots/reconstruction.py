"""Masked pictures and their reconstructions (arXiv 2111.06377, figure 2)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import (
    ArraySequence,
    PanelGrid,
    check_array,
    check_consistent_length,
    check_image,
    check_images,
    make_panels,
    middle_aspect,
    set_caption,
    show_image,
)
from vitral.plots.style import Plot, format_percent, pluralize, shorten, style_context

MOST_ROWS = 24
_GAP = 0.62  # the grey of a hidden patch, which few pictures have as a flat area
_COLUMNS = ("original", "masked", "reconstruction")


@style_context()
def reconstructions(
    images: ArraySequence,
    hidden: ArraySequence,
    restored: ArraySequence,
    *,
    title: str = "Hidden patches, drawn",
    note: str = "",
    captions: Sequence[str] = _COLUMNS,
) -> Plot:
    """Draw a row for each image: original, masked, reconstruction; at most 24 rows.

    Args:
        images: [height, width, 3] each, integers 0..255 or floats 0..1.
        hidden: [rows, columns] each, True where a patch was hidden.
        restored: [height, width, 3] each, 0..1 (or 0..255 as integers); values beyond
            are clipped.
        note: a line at the foot, such as whose contrast the drawn patches have.
        captions: headings of the three columns.

    Raises:
        DataError: the numbers of images, masks and reconstructions differ, or one of
            them cannot be drawn.
    """
    check_consistent_length("the masks", len(hidden), len(images))
    check_consistent_length("the reconstructions", len(restored), len(images))
    if len(captions) != len(_COLUMNS):
        raise DataError(f"there are three columns to name: got {len(captions)} names.")
    parts = check_images(images[:MOST_ROWS])
    pictures = []
    for i, part in enumerate(parts):
        drawn = _clip_reconstruction(restored[i], f"reconstruction {i}")
        if np.shape(images[i]) != np.shape(restored[i]):
            raise DataError(
                f"reconstruction {i} must be as large as its image, "
                f"{list(np.shape(images[i]))}: got {list(np.shape(restored[i]))}."
            )
        pictures += [part, mask_patches(part, _check_mask(hidden[i], i)), drawn]
    rest = len(images) - len(parts)
    shown = f" The first {len(parts)} of {len(images)}." if rest else ""
    title = shorten(title, 80)
    grid = PanelGrid(
        3 * len(parts),
        3,
        middle_aspect(parts),
        captions=False,
        heading=True,
        widest=1.5,
        tallest=1.5,
    )
    panels = make_panels(grid, title, f"{shorten(note, 200)}{shown}".strip())
    for axes, pixels in zip(panels.axes, pictures, strict=True):
        show_image(axes, pixels)
    for axes, text in zip(panels.axes, captions, strict=False):
        set_caption(axes, text, panels.letters, quiet=True)
    shares = [_check_mask(mask, i).mean() for i, mask in enumerate(hidden)]
    share = format_percent(float(np.mean(shares)))
    return Plot(
        panels.figure,
        f"{title}: {pluralize(len(parts), 'picture')}, each as "
        f"{', '.join(shorten(text, 60) for text in captions)}. {share} of the "
        "patches were hidden.",
    )


def mask_patches(
    image: ArrayLike, hidden: ArrayLike
) -> Float[np.ndarray, "height width 3"]:
    """Return the picture with its hidden patches grey: pixels in 0..1.

    Args:
        hidden: [rows, columns], True where a patch is hidden.
    """
    pixels, gaps = check_image(image), _check_mask(hidden, 0)
    rows = np.arange(pixels.shape[0]) * gaps.shape[0] // pixels.shape[0]
    columns = np.arange(pixels.shape[1]) * gaps.shape[1] // pixels.shape[1]
    return np.where(gaps[rows][:, columns, None], _GAP, pixels)


def _check_mask(hidden: ArrayLike, index: int) -> Bool[np.ndarray, "rows columns"]:
    values = check_array(hidden, f"mask {index}", "rows", "columns")
    if not np.isin(values, (0, 1)).all():
        raise DataError(
            f"mask {index} must be True where a patch is hidden and False elsewhere: "
            f"got values from {values.min():.3g} to {values.max():.3g}."
        )
    return values.astype(bool)


def _clip_reconstruction(
    image: ArrayLike, name: str
) -> Float[np.ndarray, "height width 3"]:
    if np.issubdtype(np.asarray(image).dtype, np.integer):
        return check_image(image, name)
    return check_image(
        check_array(image, name, "height", "width", "3 colours").clip(0, 1), name
    )
