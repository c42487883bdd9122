"""What can be looked at: from a model and pictures to one figure after the other.

A `Subject` is a model with the pictures as it sees them; a view of `VIEWS` turns it
into figures and the arrays behind them. Nothing is written here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

import vitral.models
from vitral import inspection, plots
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.layers import Attention
from vitral.models import VisionModel
from vitral.workflows.inputs import FrameTimes

BATCH = 8
MAX_IMAGES_PER_FIGURE = 24
"""Pictures in one figure; the arrays have all of them."""
MAX_SINGLE_FIGURES = 6
"""Pictures that get a figure of their own."""
DISPLAY_QUANTILE = 0.98
"""Quantile of a map that is drawn brightest; the arrays are whole."""
MAX_PROFILED_IMAGES = 4
"""Pictures for rank profiles, which run in float64."""


@dataclass(frozen=True, kw_only=True)
class InspectionInput:
    """A model and pictures, ready to be looked at."""

    model: VisionModel
    preprocess: Preprocess
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """The pictures' file names."""
    pixels: Float[Tensor, "images *frames 3 height width"]
    """As the model takes them; clips for a model that takes clips."""
    layer: int = -1
    """Which layer the attention of heads is taken from."""
    target: int | None = None
    """The class that is explained; None for the one that is predicted."""
    frame_times: tuple[FrameTimes, ...] = ()
    """When the frames begin, for each clip; empty for images."""

    @property
    def display_images(self) -> list[UInt8[np.ndarray, "height width 3"]]:
        """As the model sees them, for the eye."""
        shown = self.preprocess.denormalize(self.pixels)
        return [picture.permute(1, 2, 0).numpy() for picture in shown]

    def map_first_images(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` the first pictures at once, as many as are drawn alone."""
        device = next(self.model.parameters()).device
        return function(self.pixels[:MAX_SINGLE_FIGURES].to(device)).cpu()

    def map_batches(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` every batch of the pictures, in one tensor."""
        device = next(self.model.parameters()).device
        size = max(1, BATCH // self.pixels[0].shape[:-3].numel())
        parts = [function(some.to(device)) for some in self.pixels.split(size)]
        return torch.cat([part.cpu() for part in parts])


class InspectionFigure(NamedTuple):
    """One figure, and the arrays that it shows."""

    name: str
    plot: plots.Plot
    arrays: dict[str, np.ndarray]
    gif: bytes | None = None
    """The same of a clip as a GIF."""


FigureBuilder = Callable[[InspectionInput], Iterator[InspectionFigure]]


def _attention(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """The class token's attention in one layer, head by head."""
    maps = subject.map_batches(
        lambda some: inspection.class_attention(subject.model, some, subject.layer)
    )
    arrays = {"class_attention": maps.numpy()}
    where = "last layer" if subject.layer == -1 else f"layer {subject.layer}"
    for index, picture in enumerate(subject.display_images[:MAX_SINGLE_FIGURES]):
        title = f"Class token, {where}: {_stem(subject, index)}"
        plot = plots.heads(picture, maps[index].numpy(), title=title)
        yield InspectionFigure(f"attention-{index}", plot, arrays if index == 0 else {})


def _inner_attention(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """What the words of each patch look at, in the last inner layer, head by head."""
    maps = subject.map_batches(
        lambda some: inspection.word_attention(subject.model, some)
    )
    arrays = {"word_attention": maps.numpy()}
    for index, picture in enumerate(subject.display_images[:MAX_SINGLE_FIGURES]):
        title = f"Words of each patch, last layer: {_stem(subject, index)}"
        # A word does not see beyond its patch, so nothing is blurred across borders.
        plot = plots.heads(picture, maps[index].numpy(), title=title, blur=0.0)
        yield InspectionFigure(f"words-{index}", plot, arrays if index == 0 else {})


def _rollout(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(lambda some: inspection.rollout(subject.model, some))
    yield _make_gallery(subject, "rollout", "Attention rollout", maps)


def _relevance(subject: InspectionInput) -> Iterator[InspectionFigure]:
    found = compute_explanations(subject)
    for index, picture in enumerate(subject.display_images[:MAX_SINGLE_FIGURES]):
        title = f"Explanations of one image: {_stem(subject, index)}"
        several = {name: maps[index].numpy() for name, maps in found.items()}
        plot = plots.comparison(picture, several, title=title)
        arrays = {array_key(name): maps.numpy() for name, maps in found.items()}
        yield InspectionFigure(f"relevance-{index}", plot, arrays if index == 0 else {})


def _grad_cam(subject: InspectionInput) -> Iterator[InspectionFigure]:
    maps = subject.map_batches(
        lambda some: inspection.grad_cam(subject.model, some, subject.target)
    )
    yield _make_gallery(subject, "gradcam", "Grad-CAM", maps)


def _distance(subject: InspectionInput) -> Iterator[InspectionFigure]:
    device = next(subject.model.parameters()).device
    found = inspection.attention_distance(
        subject.model, subject.pixels.to(device), batch_size=BATCH
    )
    config = subject.model.config
    height, width = subject.pixels.shape[-2:]
    patch = (height / config.grid.rows, width / config.grid.columns)
    uniform = inspection.uniform_distance(
        config.grid, patch, num_prefix_tokens=config.num_prefix_tokens
    )
    plot = plots.distance(found.numpy(), uniform, image_height=height)
    arrays = {"attention_distance": found.numpy(), "uniform": np.array(uniform)}
    yield InspectionFigure("distance", plot, arrays)


def _positions(subject: InspectionInput) -> Iterator[InspectionFigure]:
    similarity = inspection.position_similarity(subject.model).numpy()
    plot = plots.positions(similarity, subject.model.config.grid)
    yield InspectionFigure("positions", plot, {"position_similarity": similarity})


def _filters(subject: InspectionInput) -> Iterator[InspectionFigure]:
    shape = vitral.models.tensor_shapes(subject.model.config)
    first = next(size for size in shape.values() if len(size) == 4)
    number = min(28, first[0] - 1, int(np.prod(first[1:])))
    if first[1] != 3:
        raise ConfigError(
            f"The model takes images of {first[1]} channels, so its filters have no "
            "colours to be shown in."
        )
    tiles = inspection.embedding_filters(subject.model, number).numpy()
    share = inspection.filter_components(
        subject.model, number
    ).explained_variance_ratio.numpy()
    plot = plots.filters(tiles, share)
    yield InspectionFigure("filters", plot, {"filters": tiles, "share": share})


def _features(subject: InspectionInput) -> Iterator[InspectionFigure]:
    device = next(subject.model.parameters()).device
    some = subject.pixels[:MAX_IMAGES_PER_FIGURE].to(device)
    colours = inspection.feature_colors(subject.model, some).numpy()
    plot = plots.feature_colors(subject.display_images[:MAX_IMAGES_PER_FIGURE], colours)
    yield InspectionFigure("features", plot, {"colours": colours})


RANK_CURVES: dict[str, tuple[str, ...]] = {
    "whole block": (),
    "without perceptron": ("mlp",),
    "without LayerNorm": ("norm",),
    "without skip around attention": ("attn_skip",),
    "attention alone": ("attn_skip", "mlp"),
    "attention alone, no LayerNorm": ("attn_skip", "mlp", "norm"),
}


def _rank(subject: InspectionInput) -> Iterator[InspectionFigure]:
    some = subject.pixels[:MAX_PROFILED_IMAGES]
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
            label: profile(subject.model, some, ablate).numpy()
            for label, ablate in RANK_CURVES.items()
        }
        arrays = {array_key(label): curve for label, curve in curves.items()}
        yield InspectionFigure(name, draw(curves, title=title), arrays)


def _faithfulness(subject: InspectionInput) -> Iterator[InspectionFigure]:
    """Deletion and insertion of every map, and the maps of shuffled weights."""
    found = compute_explanations(subject)
    grid = next(iter(found.values())).shape
    found["random order"] = inspection.random_order(torch.zeros(grid), seed=0)
    device = next(subject.model.parameters()).device
    pixels = subject.pixels.to(device)
    classes = _target_classes(subject, pixels)
    going, coming, arrays = {}, {}, {}
    shares = np.zeros(0)
    for name, maps in found.items():
        if maps.shape != grid:
            continue
        out = inspection.deletion(subject.model, pixels, maps, classes)
        back = inspection.insertion(subject.model, pixels, maps, classes)
        shares = out.shares.numpy()
        going[name], coming[name] = out.scores.numpy(), back.scores.numpy()
        arrays[f"deletion_area_{array_key(name)}"] = out.area.numpy()
        arrays[f"insertion_area_{array_key(name)}"] = back.area.numpy()
    plot = plots.faithfulness_curves(shares, going, coming)
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
"""What can be looked at, by its word on the command line."""


def compute_explanations(
    subject: InspectionInput,
) -> dict[str, Float[Tensor, "images *frames rows columns"]]:
    """Every map that the model can give of its pictures, by name."""
    model, target = subject.model, subject.target
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "rollout": lambda some: inspection.rollout(model, some),
        "relevance": lambda some: inspection.relevance(model, some, target),
        "gradient rollout": lambda some: inspection.gradient_rollout(
            model, some, target
        ),
        "Grad-CAM": lambda some: inspection.grad_cam(model, some, target),
    }
    found, reasons = {}, []
    for name, way in ways.items():
        try:
            found[name] = subject.map_batches(way)
        except ConfigError as error:
            reasons.append(str(error))
    if len(found) < 2 and reasons and "Grad-CAM" not in found:
        raise ConfigError(reasons[-1])
    return found


def _pick_explainer(
    subject: InspectionInput, classes: Tensor
) -> Callable[[VisionModel, Tensor], Tensor]:
    """The map that is checked against shuffled weights: one of a class if there is."""

    def relevance(model: VisionModel, images: Tensor) -> Tensor:
        return inspection.relevance(model, images, classes)

    def grad_cam(model: VisionModel, images: Tensor) -> Tensor:
        return inspection.grad_cam(model, images, classes)

    has_attention = any(
        isinstance(module, Attention) for module in subject.model.modules()
    )
    return relevance if has_attention else grad_cam


@torch.no_grad()
def _target_classes(subject: InspectionInput, pixels: Tensor) -> Tensor:
    """The class that is explained, for each picture."""
    if subject.target is not None:
        return torch.full((len(pixels),), subject.target)
    logits = torch.cat([subject.model(some) for some in pixels.split(BATCH)])
    return logits.argmax(dim=1).cpu()


def _make_gallery(
    subject: InspectionInput, name: str, title: str, maps: Tensor
) -> InspectionFigure:
    pictures = subject.display_images[:MAX_IMAGES_PER_FIGURE]
    titles = [_stem(subject, index) for index in range(len(pictures))]
    # One patch that gathers most of the weight would leave the others black.
    heats = maps[:MAX_IMAGES_PER_FIGURE].numpy()
    most = np.quantile(heats, DISPLAY_QUANTILE, axis=(1, 2), keepdims=True)
    drawn = np.where(most > 0, np.minimum(heats, most), heats)
    plot = plots.gallery(pictures, drawn, titles, title=title)
    return InspectionFigure(name, plot, {name: maps.numpy()})


def _stem(subject: InspectionInput, index: int) -> str:
    return Path(subject.names[index]).name


def array_key(name: str) -> str:
    """A name of an array."""
    return "".join(c if c.isalnum() else "_" for c in name.lower())
