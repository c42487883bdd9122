"""What can be looked at in clips: strips of frames under a map, and GIFs of them.

The views have the words of views.py. Positions and filters are those of images.
"""

from collections.abc import Iterator
from pathlib import Path

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
    """The class token's attention in one layer, the mean of its heads."""
    maps = subject.map_batches(
        lambda some: inspection.class_attention(subject.model, some, subject.layer)
    )
    where = "last layer" if subject.layer == -1 else f"layer {subject.layer}"
    title = f"Class token, {where}, mean of {maps.shape[1]} heads"
    arrays = {"class_attention": maps.numpy()}
    yield from _make_strips(subject, "attention", title, maps.mean(dim=1), arrays)


def _rollout(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(lambda some: inspection.rollout(subject.model, some))
    arrays = {"rollout": maps.numpy()}
    yield from _make_strips(subject, "rollout", "Attention rollout", maps, arrays)


def _grad_cam(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(
        lambda some: inspection.grad_cam(subject.model, some, subject.target)
    )
    yield from _make_strips(
        subject, "gradcam", "Grad-CAM", maps, {"gradcam": maps.numpy()}
    )


def _relevance(subject: InspectionInput) -> Iterator[InspectionFigure]:
    found = {name: maps.numpy() for name, maps in compute_explanations(subject).items()}
    arrays = {array_key(name): maps for name, maps in found.items()}
    for index in range(min(len(subject.names), MAX_SINGLE_FIGURES)):
        several = {name: cap_heatmap(maps[index]) for name, maps in found.items()}
        plot = plots.filmstrip(
            get_frames(subject, index),
            several,
            subject.frame_times[index].labels,
            title=f"Explanations of one clip: {_stem(subject, index)}",
        )
        yield InspectionFigure(
            f"relevance-{index}", plot, _arrays_for_first(arrays, subject, index)
        )


def _features(subject: InspectionInput) -> Iterator[InspectionFigure]:
    colours = subject.map_first_images(
        lambda some: inspection.feature_colors(subject.model, some)
    ).numpy()
    for index in range(len(colours)):
        plot = plots.color_strip(
            get_frames(subject, index),
            colours[index],
            subject.frame_times[index].labels,
            title=f"Patch features as colours: {_stem(subject, index)}",
        )
        arrays = {"colours": colours}
        yield InspectionFigure(
            f"features-{index}", plot, _arrays_for_first(arrays, subject, index)
        )


def _make_refusal(reason: str) -> FigureBuilder:
    def view(subject: InspectionInput) -> Iterator[InspectionFigure]:
        raise ConfigError(reason)

    return view


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
"""The same words for a model that takes clips."""


def get_frames(
    subject: InspectionInput, index: int
) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames of one clip as the model sees them, for the eye."""
    shown = subject.preprocess.denormalize(subject.pixels[index])
    return shown.permute(0, 2, 3, 1).numpy()


def cap_heatmap(
    heats: Float[np.ndarray, "frames rows columns"],
) -> Float[np.ndarray, "frames rows columns"]:
    """A map whose greatest values are cut, as in a gallery of images."""
    most = float(np.quantile(heats, DISPLAY_QUANTILE))
    return np.minimum(heats, most) if most > 0 else heats


def _make_strips(
    subject: InspectionInput,
    name: str,
    title: str,
    maps: Tensor,
    arrays: dict[str, np.ndarray],
) -> Iterator[InspectionFigure]:
    """A strip and a GIF for each clip."""
    for index in range(min(len(maps), MAX_SINGLE_FIGURES)):
        moments, heats = subject.frame_times[index], cap_heatmap(maps[index].numpy())
        pictures = get_frames(subject, index)
        plot = plots.filmstrip(
            pictures,
            {title: heats},
            moments.labels,
            title=f"{title}: {_stem(subject, index)}",
        )
        moving = plots.animation(pictures, heats, moments.seconds)
        stored = _arrays_for_first(arrays, subject, index)
        yield InspectionFigure(f"{name}-{index}", plot, stored, moving)


def _arrays_for_first(
    arrays: dict[str, np.ndarray], subject: InspectionInput, index: int
) -> dict[str, np.ndarray]:
    """The arrays of all clips, with when their frames begin, beside the first."""
    if index:
        return {}
    return {**arrays, "seconds": np.array([m.seconds for m in subject.frame_times])}


def _stem(subject: InspectionInput, index: int) -> str:
    return Path(subject.names[index]).name
