"""Figures of `vitral inspect` for clips: filmstrips under a map, and GIFs of them.

They have the names of `FIGURES`; positions and filters are those of images.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from vitral import inspection, plots
from vitral.errors import ConfigError
from vitral.workflows.inspect.figures import (
    DISPLAY_QUANTILE,
    FIGURES,
    MAX_SINGLE_FIGURES,
    FigureBuilder,
    InspectionFigure,
    InspectionInput,
    array_key,
    compute_explanations,
)


def _attention(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """Draw the class token's attention in one layer, the mean of its heads."""
    maps = subject.map_batches(
        lambda batch: inspection.class_attention(subject.model, batch, subject.layer)
    )
    where = "last layer" if subject.layer == -1 else f"layer {subject.layer}"
    title = f"Class token, {where}, mean of {maps.shape[1]} heads"
    arrays = {"class_attention": maps.numpy()}
    yield from _make_strips(
        subject, "attention", title, maps.mean(dim=1), arrays=arrays
    )


def _rollout(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(lambda batch: inspection.rollout(subject.model, batch))
    arrays = {"rollout": maps.numpy()}
    yield from _make_strips(
        subject, "rollout", "Attention rollout", maps, arrays=arrays
    )


def _grad_cam(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(
        lambda batch: inspection.grad_cam(subject.model, batch, subject.target)
    )
    yield from _make_strips(
        subject, "gradcam", "Grad-CAM", maps, arrays={"gradcam": maps.numpy()}
    )


def _relevance(subject: InspectionInput) -> Iterator[InspectionFigure]:
    explanations = {
        name: maps.numpy() for name, maps in compute_explanations(subject).items()
    }
    arrays = {array_key(name): maps for name, maps in explanations.items()}
    for index in range(min(len(subject.names), MAX_SINGLE_FIGURES)):
        plot = plots.filmstrip(
            get_frames(subject, index),
            {name: cap_heatmap(maps[index]) for name, maps in explanations.items()},
            subject.frame_times[index].labels,
            title=f"Explanations of one clip: {subject.stem(index)}",
        )
        yield InspectionFigure(
            f"relevance-{index}", plot, _arrays_for_first(arrays, subject, index)
        )


def _features(subject: InspectionInput) -> Iterator[InspectionFigure]:
    colors = subject.map_first_images(
        lambda batch: inspection.feature_colors(subject.model, batch)
    ).numpy()
    for index in range(len(colors)):
        plot = plots.color_strip(
            get_frames(subject, index),
            colors[index],
            subject.frame_times[index].labels,
            title=f"Patch features as colours: {subject.stem(index)}",
        )
        arrays = {"colours": colors}
        yield InspectionFigure(
            f"features-{index}", plot, _arrays_for_first(arrays, subject, index)
        )


def _make_refusal(reason: str) -> FigureBuilder:
    def refuse(subject: InspectionInput) -> Iterator[InspectionFigure]:
        raise ConfigError(reason)

    return refuse


CLIP_FIGURES: dict[str, FigureBuilder] = {
    **FIGURES,
    "attention": _attention,
    "rollout": _rollout,
    "relevance": _relevance,
    "gradcam": _grad_cam,
    "features": _features,
    "distance": _make_refusal(
        "A distance is between the patches of an image, and this model attends in "
        "space and time: see `rollout`, which has one map over all frames."
    ),
    "rank": _make_refusal(
        "Rank profiles take one attention and one perceptron a block, and a block of "
        "this model has steps in space and time: see `features`."
    ),
    "faithfulness": _make_refusal(
        "Deletion and insertion hide patches of images, and this model takes clips, so "
        "the maps are not tested here: compare those of `relevance`."
    ),
}
"""Figure builders by name, for a model that takes clips."""


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


def _make_strips(
    subject: InspectionInput,
    name: str,
    title: str,
    maps: Tensor,
    *,
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
        stored = _arrays_for_first(arrays, subject, index)
        yield InspectionFigure(f"{name}-{index}", plot, stored, gif)


def _arrays_for_first(
    arrays: dict[str, np.ndarray], subject: InspectionInput, index: int
) -> dict[str, np.ndarray]:
    """Return the arrays and frame times of all clips, for the first figure only."""
    if index:
        return {}
    return {**arrays, "seconds": np.array([m.seconds for m in subject.frame_times])}
