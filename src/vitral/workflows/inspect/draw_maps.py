"""Input and figures of `vitral inspect`, and the drawing of one map per image or clip.

Nothing is written here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitral import plots
from vitral.data import FrameTimes, Preprocess
from vitral.models import VisionModel

BATCH = 8
"""Images per forward pass."""
MAX_IMAGES_PER_FIGURE = 24
"""Images in one figure; the arrays hold all of them."""
MAX_SINGLE_FIGURES = 6
"""Images with a figure of their own."""
DISPLAY_QUANTILE = 0.98
"""Quantile of a map that is drawn brightest; the arrays are not capped."""


@dataclass(frozen=True, kw_only=True)
class InspectionInput:
    """A model with preprocessed images or clips."""

    model: VisionModel
    preprocess: Preprocess
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """File names of the images."""
    pixels: Float[Tensor, "images *frames 3 height width"]
    """Model input; clips for a model that takes clips."""
    layer: int | None = None
    """Index of the layer whose attention heads are drawn, and of the block whose input
    is Grad-CAM's map; None: the last that says something."""
    target: int | None = None
    """Index of the class to explain; None for the predicted one."""
    frame_times: tuple[FrameTimes, ...] = ()
    """Frame times of each clip; empty for images."""

    @property
    def display_images(self) -> list[UInt8[np.ndarray, "height width 3"]]:
        """Return the images as the model sees them, denormalized."""
        images = self.preprocess.denormalize(self.pixels)
        return [image.permute(1, 2, 0).numpy() for image in images]

    def stem(self, index: int) -> str:
        return Path(self.names[index]).name

    def map_first_images(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `function` to the first `MAX_SINGLE_FIGURES` images in one batch."""
        device = next(self.model.parameters()).device
        return function(self.pixels[:MAX_SINGLE_FIGURES].to(device)).cpu()

    def map_batches(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `function` to all images by batches, and concatenate the results."""
        device = next(self.model.parameters()).device
        size = max(1, BATCH // self.pixels[0].shape[:-3].numel())
        parts = [function(batch.to(device)) for batch in self.pixels.split(size)]
        return torch.cat([part.cpu() for part in parts])


@dataclass(frozen=True, slots=True)
class InspectionFigure:
    """One figure, and the arrays that it shows."""

    name: str
    plot: plots.Plot
    arrays: dict[str, np.ndarray]
    gif: bytes | None = None
    """The figure of a clip as a GIF."""


def draw_maps(
    subject: InspectionInput, name: str, title: str, maps: Tensor
) -> Iterator[InspectionFigure]:
    """Draw one map per image as a gallery, or per clip as a filmstrip and a GIF."""
    if subject.frame_times:
        yield from make_strips(subject, name, title, maps, {name: maps.numpy()})
    else:
        yield _make_gallery(subject, name, title, maps)


def _make_gallery(
    subject: InspectionInput, name: str, title: str, maps: Tensor
) -> InspectionFigure:
    pictures = subject.display_images[:MAX_IMAGES_PER_FIGURE]
    titles = [subject.stem(index) for index in range(len(pictures))]
    # Without the cap, one patch with most of the weight leaves the others black.
    heats = maps[:MAX_IMAGES_PER_FIGURE].numpy()
    cap = np.quantile(heats, DISPLAY_QUANTILE, axis=(1, 2), keepdims=True)
    capped = np.where(cap > 0, np.minimum(heats, cap), heats)
    plot = plots.gallery(pictures, capped, titles, title=title)
    return InspectionFigure(name, plot, {name: maps.numpy()})


def get_frames(
    subject: InspectionInput, index: int
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Return the frames of one clip as the model sees them, denormalized."""
    frames = subject.preprocess.denormalize(subject.pixels[index])
    return frames.permute(0, 2, 3, 1).numpy()


def cap_heatmap(
    heats: Float[np.ndarray, "frames rows columns"],
) -> Float[np.ndarray, "frames rows columns"]:
    """Cap a map at `DISPLAY_QUANTILE`, as a gallery of images does."""
    cap = float(np.quantile(heats, DISPLAY_QUANTILE))
    return np.minimum(heats, cap) if cap > 0 else heats


def make_strips(
    subject: InspectionInput,
    name: str,
    title: str,
    maps: Tensor,
    arrays: dict[str, np.ndarray],
) -> Iterator[InspectionFigure]:
    """Draw a filmstrip and a GIF for each clip."""
    for index in range(min(len(maps), MAX_SINGLE_FIGURES)):
        times, heats = subject.frame_times[index], cap_heatmap(maps[index].numpy())
        frames = get_frames(subject, index)
        plot = plots.filmstrip(
            frames,
            {title: heats},
            times.labels,
            title=f"{title}: {subject.stem(index)}",
        )
        gif = plots.animation(frames, heats, times.seconds)
        stored = arrays_for_first(arrays, subject, index)
        yield InspectionFigure(f"{name}-{index}", plot, stored, gif)


def arrays_for_first(
    arrays: dict[str, np.ndarray], subject: InspectionInput, index: int
) -> dict[str, np.ndarray]:
    """Return the arrays and frame times of all clips, for the first figure only."""
    if index:
        return {}
    return {**arrays, "seconds": np.array([m.seconds for m in subject.frame_times])}
