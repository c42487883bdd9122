"""Frozen features of a whole data set, for few-shot, linear and k-NN evaluation."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

import vitral.data
from vitral.data import DataSet, Loader, Plain, Preprocess
from vitral.models import VisionModel


class Extracted(NamedTuple):
    """Features and labels, in the order of the data set."""

    x: Float[Tensor, "examples dim"]
    y: Int[Tensor, " examples"]


@torch.no_grad()
def features(
    model: VisionModel,
    preprocess: Preprocess,
    data: str | DataSet,
    *,
    split: str = "",
    batch_size: int = 32,
    workers: int = 0,
) -> Extracted:
    """What feeds the head of `model`, for every image that can be decoded.

    Args:
        data: a data set, or what `vitral.data.open` takes.
        split: one split of it; empty for all.
    """
    dataset = data if isinstance(data, DataSet) else vitral.data.open(data)
    loader = Loader(
        dataset=dataset,
        examples=dataset.select(split) if split else dataset.examples,
        transform=Plain(preprocess=preprocess),
        batch_size=batch_size,
        workers=workers,
    )
    model.eval()
    device = next(model.parameters()).device
    xs, ys = [], []
    for batch in loader.epoch(0):
        found = model.forward_features(batch.image.to(device))
        xs.append(model.forward_pool(found).cpu())
        ys.append(batch.label)
    return Extracted(torch.cat(xs), torch.cat(ys))
