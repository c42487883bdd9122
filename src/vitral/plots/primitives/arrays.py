"""Checks and resampling of the pictures, maps and tables that figures take.

Everything that np.asarray takes is accepted, tensors on the CPU included.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import gaussian_filter

from vitral.errors import DataError

Values = Float[np.ndarray, " points"]
MOST_PIXELS = 1024  # a longer side is invisible in a figure and enlarges its file


@runtime_checkable
class ArraySequence(Protocol):
    """A list of arrays of one size or several, or an array with one dimension more."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


def check_array(values: ArrayLike, name: str, *axes: str) -> Float[np.ndarray, "..."]:
    """Return the values as finite float64 with one dimension for each name in `axes`.

    Raises:
        DataError: another number of dimensions, an empty one, or a value that is not
            a finite number.
    """
    expected = f"[{', '.join(axes)}]"
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        # NumPy and torch name the cause: text, ragged, or a tensor with gradients.
        raise DataError(f"{name} must be numbers {expected}: {error}.") from error
    if array.ndim != len(axes) or array.size == 0:
        raise DataError(
            f"{name} must be {expected}: got the shape {list(array.shape)}."
        )
    if not np.isfinite(array).all():
        raise DataError(
            f"{name} must be finite numbers: {int((~np.isfinite(array)).sum())} of "
            f"{array.size} are not; look for the layer that overflows."
        )
    return array


def check_image(
    image: ArrayLike, name: str = "the image"
) -> Float[np.ndarray, "h w 3"]:
    """Return an RGB picture as 0..1, its longer side at most MOST_PIXELS.

    Raises:
        DataError: not [height, width, 3], or neither 0..255 integers nor 0..1.
    """
    array = check_array(image, name, "height", "width", "3 colours")
    is_integer = np.issubdtype(np.asarray(image).dtype, np.integer)
    if array.shape[2] != 3:
        hint = (
            "; move the colours last with .permute(1, 2, 0)"
            if array.shape[0] == 3
            else "; a grey image needs three equal colours"
        )
        raise DataError(
            f"{name} must be [height, width, 3 colours]: got the shape "
            f"{list(array.shape)}{hint}."
        )
    array = array / 255 if is_integer else array
    # Normalising pixels and back leaves rounding errors.
    claim = f"{name} must hold 0..255 as integers or 0..1 as floats: got"
    hint = "; undo the normalisation (pixels = image * std + mean)"
    check_range(array, (0, 1), claim, hint, tolerance=1e-3)
    array = array.clip(0, 1)
    longest = max(array.shape[:2])
    if longest <= MOST_PIXELS:
        return array
    size = [max(round(side * MOST_PIXELS / longest), 1) for side in array.shape[:2]]
    return np.stack([_lanczos(array[..., i], *size) for i in range(3)], -1)


def check_images(images: ArraySequence) -> list[Float[np.ndarray, "h w 3"]]:
    """Return pictures of one size or several, each as `check_image` does.

    Raises:
        DataError: there is none, or one is no picture.
    """
    if len(images) == 0:
        raise DataError("there is no image to draw: the list is empty.")
    return [check_image(image, f"image {i}") for i, image in enumerate(images)]


def check_consistent_length(
    name: str, count: int, expected: int, one: str = "be one for each image"
) -> None:
    """Raise DataError unless the two counts are equal."""
    if count != expected:
        raise DataError(f"{name} must {one}: got {count}, not {expected}.")


def check_range(
    values: Float[np.ndarray, "..."],
    limits: tuple[int, int],
    claim: str,
    hint: str = "",
    *,
    tolerance: float = 0.0,
) -> None:
    """Raise DataError, with claim and range, if a value is beyond the limits."""
    low, high = limits
    if values.min() < low - tolerance or values.max() > high + tolerance:
        raise DataError(f"{claim} {values.min():.3g} to {values.max():.3g}{hint}.")


def check_pairs(
    name: str, sizes: ArrayLike, values: ArrayLike, *, singular: str, plural: str
) -> tuple[Values, Values]:
    """Return the sizes and values of a curve as arrays.

    Raises:
        DataError: one of them cannot be drawn, or their lengths differ.
    """
    checked = check_array(sizes, f"the sizes of {name}", "S")
    measured = check_array(values, f"the {plural} of {name}", "S")
    one = f"have {singular} for each size"
    check_consistent_length(name, len(measured), len(checked), one)
    return checked, measured


def upsample(
    heat: ArrayLike, height: int, width: int, blur: float = 1.0
) -> Float[np.ndarray, "height width"]:
    """Return a map of patches as a smooth map of pixels from 0 to 1.

    Lanczos, then a Gaussian of `blur` patches (standard deviation; 0: none), then the
    least and greatest value become 0 and 1. A constant map becomes 1, zero stays 0.

    Raises:
        DataError: the map is not [rows, columns] of finite numbers.
    """
    patches = check_array(heat, "a map", "rows", "columns")
    return upsample_frames(patches[None], height, width, blur)[0]


def upsample_frames(
    heats: ArrayLike, height: int, width: int, blur: float = 1.0
) -> Float[np.ndarray, "frames height width"]:
    """Upsample the map of a clip on one scale, without blur across frames.

    Raises:
        DataError: the map is not [frames, rows, columns] of finite numbers.
    """
    patches = check_array(heats, "the map of a clip", "frames", "rows", "columns")
    low, high = patches.min(), patches.max()
    # The rounding errors of a constant float32 map must not become contrast.
    if high - low <= 1e-5 * max(abs(low), abs(high)):
        return np.full((len(patches), height, width), float(high > 0))
    # Scaled first, since Pillow computes in float32.
    scaled = (patches - low) / (high - low)
    pixels = np.stack([_lanczos(frame, height, width) for frame in scaled])
    rows, columns = patches.shape[1:]
    sides = (0.0, blur * height / rows, blur * width / columns)
    pixels = gaussian_filter(pixels, sides, mode="nearest") if blur else pixels
    low, high = pixels.min(), pixels.max()
    flat = np.isclose(low, high, rtol=1e-6, atol=0)
    return np.ones_like(pixels) if flat else (pixels - low) / (high - low)


def _lanczos(
    array: Float[np.ndarray, "rows columns"], height: int, width: int
) -> Float[np.ndarray, "height width"]:
    source = Image.fromarray(array.astype(np.float32))
    resized = source.resize((width, height), Image.Resampling.LANCZOS)
    # Lanczos overshoots its input a little.
    return np.asarray(resized, dtype=np.float64).clip(array.min(), array.max())
