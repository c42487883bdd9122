"""Figures of `vitral inspect` for clips: filmstrips under a map, and GIFs of them.

They have the names of `FIGURES`; positions and filters are those of images.
"""

from collections.abc import Iterator

from vitral import inspection, plots
from vitral.errors import ConfigError
from vitral.workflows.inspect.draw_maps import (
    MAX_SINGLE_FIGURES,
    InspectionFigure,
    InspectionInput,
    arrays_for_first,
    cap_heatmap,
    get_frames,
    make_strips,
)
from vitral.workflows.inspect.figures import (
    FIGURES,
    FigureBuilder,
    array_key,
    compute_class_attention,
    compute_explanations,
)


def _attention(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """Draw the class token's attention in one layer, the mean of its heads."""
    maps, where = compute_class_attention(subject)
    title = f"Class token, {where}, mean of {maps.shape[1]} heads"
    arrays = {"class_attention": maps.numpy()}
    yield from make_strips(subject, "attention", title, maps.mean(dim=1), arrays)


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
            f"relevance-{index}", plot, arrays_for_first(arrays, subject, index)
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
            f"features-{index}", plot, arrays_for_first(arrays, subject, index)
        )


def _make_refusal(reason: str) -> FigureBuilder:
    def refuse(subject: InspectionInput) -> Iterator[InspectionFigure]:
        raise ConfigError(reason)

    return refuse


CLIP_FIGURES: dict[str, FigureBuilder] = {
    **FIGURES,
    "attention": _attention,
    "relevance": _relevance,
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
