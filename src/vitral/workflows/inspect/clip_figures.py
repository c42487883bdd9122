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
    DRAWN_UP_TO,
    MOST_ALONE,
    VIEWS,
    Made,
    Subject,
    View,
    explanations,
    key,
)


def _attention(subject: Subject) -> Iterator[Made]:
    """The class token's attention in one layer, the mean of its heads."""
    maps = subject.batched(
        lambda some: inspection.class_attention(subject.model, some, subject.layer)
    )
    where = "last layer" if subject.layer == -1 else f"layer {subject.layer}"
    title = f"Class token, {where}, mean of {maps.shape[1]} heads"
    arrays = {"class_attention": maps.numpy()}
    yield from _strips(subject, "attention", title, maps.mean(dim=1), arrays)


def _rollout(subject: Subject) -> Iterator[Made]:
    maps = subject.batched(lambda some: inspection.rollout(subject.model, some))
    arrays = {"rollout": maps.numpy()}
    yield from _strips(subject, "rollout", "Attention rollout", maps, arrays)


def _grad_cam(subject: Subject) -> Iterator[Made]:
    maps = subject.batched(
        lambda some: inspection.grad_cam(subject.model, some, subject.target)
    )
    yield from _strips(subject, "gradcam", "Grad-CAM", maps, {"gradcam": maps.numpy()})


def _relevance(subject: Subject) -> Iterator[Made]:
    found = {name: maps.numpy() for name, maps in explanations(subject).items()}
    arrays = {key(name): maps for name, maps in found.items()}
    for index in range(min(len(subject.names), MOST_ALONE)):
        several = {name: drawn_part(maps[index]) for name, maps in found.items()}
        plot = plots.strip(
            frames(subject, index),
            several,
            subject.moments[index].words,
            title=f"Explanations of one clip: {_stem(subject, index)}",
        )
        yield Made(f"relevance-{index}", plot, _once(arrays, subject, index))


def _features(subject: Subject) -> Iterator[Made]:
    colours = subject.together(
        lambda some: inspection.feature_colours(subject.model, some)
    ).numpy()
    for index in range(len(colours)):
        plot = plots.colour_strip(
            frames(subject, index),
            colours[index],
            subject.moments[index].words,
            title=f"Patch features as colours: {_stem(subject, index)}",
        )
        arrays = {"colours": colours}
        yield Made(f"features-{index}", plot, _once(arrays, subject, index))


def _refused(reason: str) -> View:
    def view(subject: Subject) -> Iterator[Made]:
        raise ConfigError(reason)

    return view


CLIP_VIEWS: dict[str, View] = {
    **VIEWS,
    "attention": _attention,
    "rollout": _rollout,
    "relevance": _relevance,
    "gradcam": _grad_cam,
    "features": _features,
    "distance": _refused(
        "A distance is between the patches of an image, and this model attends in "
        "space and time: see `rollout`, which has one map over all frames."
    ),
    "rank": _refused(
        "Rank profiles take one attention and one perceptron a block, and a block of "
        "this model has steps in space and time: see `features`."
    ),
    "faithfulness": _refused(
        "Deletion and insertion hide patches of images, and this model takes clips, so "
        "the maps are not tested here: compare those of `relevance`."
    ),
}
"""The same words for a model that takes clips."""


def frames(subject: Subject, index: int) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames of one clip as the model sees them, for the eye."""
    shown = subject.preprocess.inverse(subject.pixels[index])
    return shown.permute(0, 2, 3, 1).numpy()


def drawn_part(
    heats: Float[np.ndarray, "frames rows columns"],
) -> Float[np.ndarray, "frames rows columns"]:
    """A map whose greatest values are cut, as in a gallery of images."""
    most = float(np.quantile(heats, DRAWN_UP_TO))
    return np.minimum(heats, most) if most > 0 else heats


def _strips(
    subject: Subject,
    name: str,
    title: str,
    maps: Tensor,
    arrays: dict[str, np.ndarray],
) -> Iterator[Made]:
    """A strip and a GIF for each clip."""
    for index in range(min(len(maps), MOST_ALONE)):
        moments, heats = subject.moments[index], drawn_part(maps[index].numpy())
        pictures = frames(subject, index)
        plot = plots.strip(
            pictures,
            {title: heats},
            moments.words,
            title=f"{title}: {_stem(subject, index)}",
        )
        moving = plots.animation(pictures, heats, moments.seconds)
        stored = _once(arrays, subject, index)
        yield Made(f"{name}-{index}", plot, stored, moving)


def _once(
    arrays: dict[str, np.ndarray], subject: Subject, index: int
) -> dict[str, np.ndarray]:
    """The arrays of all clips, with when their frames begin, beside the first."""
    if index:
        return {}
    return {**arrays, "seconds": np.array([m.seconds for m in subject.moments])}


def _stem(subject: Subject, index: int) -> str:
    return Path(subject.names[index]).name
