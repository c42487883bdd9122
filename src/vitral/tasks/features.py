"""Frozen features of examples: the input of a head, with the examples' targets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.data import BadFile, Example, Loader
from vitral.errors import DataError
from vitral.models import VisionModel


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """Features and labels, in the order of the data set."""

    x: Float[Tensor, "examples dim"]
    """float32; changes of a memory-mapped tensor do not reach the disk."""
    y: Int[Tensor, " examples"]
    """Index of the first name that the source gives an example; 0 for none."""
    ids: tuple[str, ...]
    bad: tuple[BadFile, ...]
    """Images that could not be decoded; they have no row."""
    targets: tuple[Any, ...] = ()
    """Targets that the source gives each example beside its labels."""


def extract_features(model: VisionModel, loader: Loader) -> ExtractedFeatures:
    """Compute the features of a loader's images, in memory only.

    Raises:
        DataError: none of the images can be decoded.
    """
    x = torch.cat(list(iter_features(model, loader)))
    return attach_targets(x, loader.examples, dict(loader.failures))


def attach_targets(
    x: Tensor, examples: tuple[Example, ...], bad: dict[str, str]
) -> ExtractedFeatures:
    """Return features with the targets of their examples."""
    good = [example for example in examples if example.id not in bad]
    return ExtractedFeatures(
        x=x,
        y=torch.tensor([(*example.label, 0)[0] for example in good]),
        targets=tuple(example.target for example in good),
        ids=tuple(example.id for example in good),
        bad=tuple(
            BadFile.from_example(example, bad[example.id])
            for example in examples
            if example.id in bad
        ),
    )


def iter_features(model: VisionModel, loader: Loader) -> Iterator[Tensor]:
    """Yield the features of each batch: float32 [batch, dim] on the CPU."""
    model.eval()
    parameter = next(model.parameters())
    images = 0
    for batch in loader.epoch(0):
        image = batch.image.to(parameter.device, parameter.dtype)
        with torch.no_grad():
            pooled = model.forward_pool(model.forward_features(image))
        yield pooled.float().cpu()
        images += len(batch.id)
    if not images:
        first = loader.failures[0]
        raise DataError(
            f"None of the {len(loader.examples)} images can be decoded, first "
            f"{first.id}: {first.reason}. Run `vitral data check`."
        )
