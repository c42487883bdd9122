"""Read what a figure shows."""

from xml.etree import ElementTree

import numpy as np

from vitral import plots


def texts(plot: plots.Plot) -> str:
    """Every piece of text in the figure's SVG."""
    root = ElementTree.fromstring(plots.to_svg(plot.figure))
    return " | ".join("".join(node.itertext()) for node in root.iter() if node.text)


def pixels(plot: plots.Plot, axis: int) -> np.ndarray:
    """The image in one of the figure's axes."""
    return np.asarray(plot.figure.axes[axis].images[0].get_array())


def noise(seed: int = 0, height: int = 48, width: int = 80) -> np.ndarray:
    """Random pixels to draw over."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
