"""What the figures of inspection take: pictures, maps and tables, checked on the way.

Everything that np.asarray takes is welcome, tensors on the CPU included.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import gaussian_filter

from vitral.errors import DataError

MOST_PIXELS = 1024  # a longer side is not seen in a figure and would fill its file


@runtime_checkable
class ArraySequence(Protocol):
    """A list of arrays of one size or several, or an array with one dimension more."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


def check_array(values: ArrayLike, name: str, *axes: str) -> Float[np.ndarray, "..."]:
    """Finite float64 with one dimension for each name in `axes`.

    Raises:
        DataError: another number of dimensions, an empty one, or a value that is not
            a finite number.
    """
    wanted = f"[{', '.join(axes)}]"
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        # NumPy and torch say what else it is: text, ragged, or a tensor with gradients.
        raise DataError(f"{name} must be numbers {wanted}: {error}.") from error
    if array.ndim != len(axes) or array.size == 0:
        raise DataError(f"{name} must be {wanted}: got the shape {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise DataError(
            f"{name} must be finite numbers: {int((~np.isfinite(array)).sum())} of "
            f"{array.size} are not; look for the layer that overflows."
        )
    return array


def check_image(
    image: ArrayLike, name: str = "the image"
) -> Float[np.ndarray, "h w 3"]:
    """An RGB picture as 0..1, its longer side at most MOST_PIXELS.

    Raises:
        DataError: not [height, width, 3], or neither 0..255 integers nor 0..1.
    """
    array = check_array(image, name, "height", "width", "3 colours")
    whole = np.issubdtype(np.asarray(image).dtype, np.integer)
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
    array = array / 255 if whole else array
    # Pixels that were normalised and back are a rounding off.
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise DataError(
            f"{name} must hold 0..255 as integers or 0..1 as floats: got "
            f"{array.min():.3g} to {array.max():.3g}; undo the normalisation "
            "(pixels = image * std + mean)."
        )
    array = array.clip(0, 1)
    longest = max(array.shape[:2])
    if longest <= MOST_PIXELS:
        return array
    size = [max(round(side * MOST_PIXELS / longest), 1) for side in array.shape[:2]]
    return np.stack([_lanczos(array[..., i], *size) for i in range(3)], -1)


def check_images(images: ArraySequence) -> list[Float[np.ndarray, "h w 3"]]:
    """Pictures of one size or several.

    Raises:
        DataError: there is none, or one is no picture.
    """
    if len(images) == 0:
        raise DataError("there is no image to draw: the list is empty.")
    return [check_image(image, f"image {i}") for i, image in enumerate(images)]


def check_consistent_length(name: str, number: int, images: int) -> None:
    """Raises:
    DataError: the two numbers differ.
    """
    if number != images:
        raise DataError(
            f"{name} must be one for each image: got {number}, not {images}."
        )


def upsample(
    heat: ArrayLike, height: int, width: int, blur: float = 1.0
) -> Float[np.ndarray, "height width"]:
    """A map of patches as a smooth map of pixels from 0 to 1.

    Lanczos, then a Gaussian of `blur` patches (standard deviation; 0: none), then
    its own least and greatest value become 0 and 1. A map that is the same
    everywhere becomes 1, one that is zero stays 0.

    Raises:
        DataError: the map is not [rows, columns] of finite numbers.
    """
    patches = check_array(heat, "a map", "rows", "columns")
    return upsample_frames(patches[None], height, width, blur)[0]


def upsample_frames(
    heats: ArrayLike, height: int, width: int, blur: float = 1.0
) -> Float[np.ndarray, "frames height width"]:
    """The map of a clip, as `upsample` does it, on one scale for all frames; nothing
    is blurred from one frame to the next.

    Raises:
        DataError: the map is not [frames, rows, columns] of finite numbers.
    """
    patches = check_array(heats, "the map of a clip", "frames", "rows", "columns")
    low, high = patches.min(), patches.max()
    # What float32 makes of a map that is the same everywhere is not to be enlarged.
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
    # Lanczos swings a little past the values it was given.
    return np.asarray(resized, dtype=np.float64).clip(array.min(), array.max())
