"""Figures of `vitral inspect`: each builder of `FIGURES` yields plots and their arrays.

Nothing is written here.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import vitral.models
from vitral import inspection, plots
from vitral.errors import ConfigError
from vitral.models import VisionModel
from vitral.workflows.inspect.draw_maps import (
    BATCH,
    MAX_IMAGES_PER_FIGURE,
    MAX_SINGLE_FIGURES,
    InspectionFigure,
    InspectionInput,
    draw_maps,
)

MAX_PROFILED_IMAGES = 4
"""Images for rank profiles, which are computed in float64."""

FigureBuilder = Callable[[InspectionInput], Iterator[InspectionFigure]]


def compute_class_attention(subject: InspectionInput) -> tuple[Tensor, str]:
    """Return the class token's attention by head, and the name of the layer."""
    layer = -1 if subject.layer is None else subject.layer
    maps = subject.map_batches(
        lambda batch: inspection.class_attention(subject.model, batch, layer)
    )
    where = "last layer" if layer == -1 else f"layer {layer}"
    return maps, where


def _attention(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """Draw the class token's attention in one layer, head by head."""
    maps, where = compute_class_attention(subject)
    arrays = {"class_attention": maps.numpy()}
    for index, picture in enumerate(subject.display_images[:MAX_SINGLE_FIGURES]):
        title = f"Class token, {where}: {subject.stem(index)}"
        plot = plots.heads(picture, maps[index].numpy(), title=title)
        yield InspectionFigure(f"attention-{index}", plot, arrays if index == 0 else {})


def _inner_attention(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """Draw the attention of each patch's words in the last inner layer, by head."""
    maps = subject.map_batches(
        lambda batch: inspection.word_attention(subject.model, batch)
    )
    arrays = {"word_attention": maps.numpy()}
    for index, picture in enumerate(subject.display_images[:MAX_SINGLE_FIGURES]):
        title = f"Words of each patch, last layer: {subject.stem(index)}"
        # A word attends within its patch only, so nothing is blurred across borders.
        plot = plots.heads(picture, maps[index].numpy(), title=title, blur=0.0)
        yield InspectionFigure(f"words-{index}", plot, arrays if index == 0 else {})


def _rollout(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(lambda batch: inspection.rollout(subject.model, batch))
    yield from draw_maps(subject, "rollout", "Attention rollout", maps)


def _relevance(subject: InspectionInput) -> Iterator[InspectionFigure]:
    explanations = compute_explanations(subject)
    for index, picture in enumerate(subject.display_images[:MAX_SINGLE_FIGURES]):
        title = f"Explanations of one image: {subject.stem(index)}"
        heats = {name: maps[index].numpy() for name, maps in explanations.items()}
        plot = plots.comparison(picture, heats, title=title)
        arrays = {array_key(name): maps.numpy() for name, maps in explanations.items()}
        yield InspectionFigure(f"relevance-{index}", plot, arrays if index == 0 else {})


def _grad_cam(subject: InspectionInput) -> Iterator[InspectionFigure]:
    layer, count = subject.layer, subject.model.config.num_blocks
    if layer is not None and -count <= layer < 0:
        layer += count
    maps = subject.map_batches(
        lambda batch: inspection.grad_cam(subject.model, batch, subject.target, layer)
    )
    title = "Grad-CAM" if layer is None else f"Grad-CAM, input of block {layer}"
    yield from draw_maps(subject, "gradcam", title, maps)


def _distance(subject: InspectionInput) -> Iterator[InspectionFigure]:
    device = next(subject.model.parameters()).device
    distances = inspection.attention_distance(
        subject.model, subject.pixels.to(device), batch_size=BATCH
    )
    config = subject.model.config
    height, width = subject.pixels.shape[-2:]
    patch = (height / config.grid.rows, width / config.grid.columns)
    uniform = inspection.uniform_distance(
        config.grid, patch, num_prefix_tokens=config.num_prefix_tokens
    )
    plot = plots.distance(distances.numpy(), uniform, image_height=height)
    arrays = {"attention_distance": distances.numpy(), "uniform": np.array(uniform)}
    yield InspectionFigure("distance", plot, arrays)


def _positions(subject: InspectionInput) -> Iterator[InspectionFigure]:
    similarity = inspection.position_similarity(subject.model).numpy()
    plot = plots.positions(similarity, subject.model.config.grid)
    yield InspectionFigure("positions", plot, {"position_similarity": similarity})


def _filters(subject: InspectionInput) -> Iterator[InspectionFigure]:
    shapes = vitral.models.tensor_shapes(subject.model.config)
    kernel = next(shape for shape in shapes.values() if len(shape) == 4)
    count = min(28, kernel[0] - 1, int(np.prod(kernel[1:])))
    if kernel[1] != 3:
        raise ConfigError(
            f"The model takes images of {kernel[1]} channels, so its filters have no "
            "colours to be shown in."
        )
    tiles = inspection.embedding_filters(subject.model, count).numpy()
    components = inspection.filter_components(subject.model, count)
    share = components.explained_variance_ratio.numpy()
    plot = plots.filters(tiles, share)
    yield InspectionFigure("filters", plot, {"filters": tiles, "share": share})


def _features(subject: InspectionInput) -> Iterator[InspectionFigure]:
    device = next(subject.model.parameters()).device
    pixels = subject.pixels[:MAX_IMAGES_PER_FIGURE].to(device)
    colors = inspection.feature_colors(subject.model, pixels).numpy()
    plot = plots.feature_colors(subject.display_images[:MAX_IMAGES_PER_FIGURE], colors)
    yield InspectionFigure("features", plot, {"colours": colors})


RANK_CURVES: dict[str, tuple[str, ...]] = {
    "whole block": (),
    "without perceptron": ("mlp",),
    "without LayerNorm": ("norm",),
    "without skip around attention": ("attn_skip",),
    "attention alone": ("attn_skip", "mlp"),
    "attention alone, no LayerNorm": ("attn_skip", "mlp", "norm"),
}


def _rank(subject: InspectionInput) -> Iterator[InspectionFigure]:
    pixels = subject.pixels[:MAX_PROFILED_IMAGES]
    for name, title, profile, draw in (
        (
            "rank",
            "Distance from rank one",
            inspection.residual_profile,
            plots.rank_curves,
        ),
        (
            "similarity",
            "Similarity of the tokens",
            inspection.similarity_profile,
            plots.similarity_curves,
        ),
    ):
        curves = {
            label: profile(subject.model, pixels, ablate).numpy()
            for label, ablate in RANK_CURVES.items()
        }
        arrays = {array_key(label): curve for label, curve in curves.items()}
        yield InspectionFigure(name, draw(curves, title=title), arrays)


def _faithfulness(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """Draw deletion and insertion for every map, and the randomization check."""
    explanations = compute_explanations(subject)
    grid = next(iter(explanations.values())).shape
    explanations["random order"] = inspection.random_order(torch.zeros(grid), seed=0)
    device = next(subject.model.parameters()).device
    pixels = subject.pixels.to(device)
    classes = _target_classes(subject, pixels)
    deletion_scores, insertion_scores, arrays = {}, {}, {}
    shares = np.zeros(0)
    for name, maps in explanations.items():
        if maps.shape != grid:
            continue
        deletion = inspection.deletion(subject.model, pixels, maps, classes)
        insertion = inspection.insertion(subject.model, pixels, maps, classes)
        shares = deletion.shares.numpy()
        deletion_scores[name] = deletion.scores.numpy()
        insertion_scores[name] = insertion.scores.numpy()
        arrays[f"deletion_area_{array_key(name)}"] = deletion.area.numpy()
        arrays[f"insertion_area_{array_key(name)}"] = insertion.area.numpy()
    plot = plots.faithfulness_curves(shares, deletion_scores, insertion_scores)
    yield InspectionFigure("faithfulness", plot, arrays)
    check = inspection.randomization_check(
        subject.model,
        pixels[:MAX_PROFILED_IMAGES],
        _pick_explainer(subject, classes[:MAX_PROFILED_IMAGES]),
    )
    mean = check.correlation.mean(dim=1).numpy()
    plot = plots.randomization(check.parts, mean)
    yield InspectionFigure(
        "randomisation", plot, {"correlation": check.correlation.numpy()}
    )


FIGURES: dict[str, FigureBuilder] = {
    "attention": _attention,
    "words": _inner_attention,
    "rollout": _rollout,
    "relevance": _relevance,
    "gradcam": _grad_cam,
    "distance": _distance,
    "positions": _positions,
    "filters": _filters,
    "features": _features,
    "rank": _rank,
    "faithfulness": _faithfulness,
}
"""Figure builders by their name on the command line."""


def compute_explanations(
    subject: InspectionInput,
) -> dict[str, Float[Tensor, "images *frames rows columns"]]:
    """Compute every explanation that the model supports, by name."""
    model, target = subject.model, subject.target
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "rollout": lambda batch: inspection.rollout(model, batch),
        "relevance": lambda batch: inspection.relevance(model, batch, target),
        "gradient rollout": lambda batch: inspection.gradient_rollout(
            model, batch, target
        ),
        "Grad-CAM": lambda batch: inspection.grad_cam(model, batch, target),
    }
    maps, reasons = {}, []
    for name, method in methods.items():
        try:
            maps[name] = subject.map_batches(method)
        except ConfigError as error:
            reasons.append(str(error))
    if len(maps) < 2 and reasons and "Grad-CAM" not in maps:
        raise ConfigError(reasons[-1])
    return maps


def _pick_explainer(
    subject: InspectionInput, classes: Tensor
) -> Callable[[VisionModel, Tensor], Tensor]:
    """Return the class map for the randomization check: relevance, else Grad-CAM."""

    def relevance(model: VisionModel, images: Tensor) -> Tensor:
        return inspection.relevance(model, images, classes)

    def grad_cam(model: VisionModel, images: Tensor) -> Tensor:
        return inspection.grad_cam(model, images, classes)

    return relevance if inspection.has_attention(subject.model) else grad_cam


@torch.no_grad()
def _target_classes(subject: InspectionInput, pixels: Tensor) -> Tensor:
    """Return the index of the class to explain for each image."""
    if subject.target is not None:
        return torch.full((len(pixels),), subject.target)
    logits = torch.cat([subject.model(batch) for batch in pixels.split(BATCH)])
    return logits.argmax(dim=1).cpu()


def array_key(name: str) -> str:
    """Return the name of an array in an .npz file: letters, digits and `_`."""
    return "".join(c if c.isalnum() else "_" for c in name.lower())
