"""Growing parts of a training set: nested, with the class shares of the whole.

One order of all images is drawn, in which the images of each class are spread evenly;
every subset is a beginning of it. Nothing here looks at an image.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vitral.errors import ConfigError, DataError

MIN_PER_CLASS = 2
"""Images of each class in the smallest subset."""
MIN_FRACTION = 1 / 32
"""Share of the images in the smallest subset, where the classes have enough."""
DEFAULT_SIZES = 6
MIN_SIZES = 4
"""A curve has three numbers; the fourth size says whether it fits."""
MIN_SIZE_RATIO = 8
"""How many times the smallest subset the whole must be: less shows no curve."""


def nested_order(
    labels: Int[np.ndarray, " images"], seed: int
) -> Int[np.ndarray, " images"]:
    """Row numbers, in an order whose every beginning has the shares of the whole.

    With `n` images in all and K classes, of which one has `own`, a beginning of length
    m holds m * own / n of it, up to (K * own / n + 1) / 2.

    Args:
        labels: class indices.
        seed: another seed is another order.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = generator.permutation(np.flatnonzero(labels == label))
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    # Equal places, of classes of one size, must not always go to the same class.
    return np.lexsort((generator.random(len(labels)), place))


def subset_sizes(
    labels: Int[np.ndarray, " images"],
    classes: Sequence[str],
    fractions: Sequence[float] = (),
) -> tuple[int, ...]:
    """Sizes of the subsets, rising.

    Args:
        classes: names, for the errors; a label is an index into them.
        fractions: shares of the images, to which all of them are added; empty for six
            sizes in equal ratios, the smallest with two images of each class or more.

    Raises:
        ConfigError: a fraction is not in (0, 1], or there are fewer than four sizes.
        DataError: one class only, or one with too few images for these sizes.
    """
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        name = classes[present[0]] if len(present) else "none"
        raise DataError(
            f"All training images are of one class ({name}): there is nothing to tell "
            "apart. Check that the labels were read."
        )
    images, rarest = len(labels), int(counts.argmin())
    name, fewest = classes[present[rarest]], int(counts[rarest])
    if fewest < MIN_PER_CLASS:
        raise DataError(
            f"The class {name} has {fewest} training image: a subset needs "
            f"{MIN_PER_CLASS} of each. Add images of it, or leave the class out."
        )
    least = _min_prefix_length(labels)
    if not fractions:
        if images < MIN_SIZE_RATIO * least:
            raise DataError(
                f"The class {name} has too few training images ({fewest}) for a "
                f"curve: its {MIN_PER_CLASS} are first together in a subset of "
                f"{least} of all {images}, and the whole must be {MIN_SIZE_RATIO} "
                "times "
                "the smallest subset. Add images of it, or leave the class out."
            )
        start = max(MIN_FRACTION * images, least)
        sizes = np.geomspace(start, images, DEFAULT_SIZES)
    else:
        if min(fractions) <= 0 or max(fractions) > 1:
            raise ConfigError(
                "`--fractions` must be shares of the training images, above 0 and at "
                f"most 1: got {', '.join(f'{one:g}' for one in fractions)}."
            )
        sizes = np.array([*fractions, 1.0]) * images
    whole = tuple(int(size) for size in np.unique(np.rint(sizes).astype(int)))
    if len(whole) < MIN_SIZES:
        raise ConfigError(
            f"A curve needs {MIN_SIZES} sizes: got {len(whole)} ("
            f"{', '.join(map(str, whole))} images). Give more `--fractions`."
        )
    if whole[0] < least:
        raise DataError(
            f"The smallest subset has {whole[0]} of {images} images, and the class "
            f"{name} with {fewest} of them needs {least} to have {MIN_PER_CLASS} in "
            f"it. Begin with a fraction of {least / images:.3f} or more."
        )
    return whole


def _min_prefix_length(labels: Int[np.ndarray, " images"]) -> int:
    """The length from which every order's beginning has enough of each class."""
    counts = np.unique(labels, return_counts=True)[1]
    last = (MIN_PER_CLASS - 0.5) / counts.min()
    # Images at the very place of the last one needed may come before it.
    there = np.floor(last * counts + 0.5 + 1e-9).astype(int)
    return int(np.minimum(there, counts).sum())
