"""Run a model over batches or a split, compute metrics, write the result files.

Test-time augmentation averages the probabilities over the views of an image (mirror
images, symmetries) or of a clip; the returned logits are the log of that average.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from vitral.atomic_io import write_json
from vitral.data import (
    BadFile,
    Batch,
    Dataset,
    Loader,
    Preprocess,
    evaluation_transform,
)
from vitral.tasks.classification import (
    Classification,
    MultiLabel,
    classify,
    multilabel,
    write_predictions,
)
from vitral.training.distributed import all_gather, get_rank, get_world_size

Views = Literal["one", "flip", "dihedral"]


@dataclass(frozen=True, kw_only=True)
class InferenceSpec:
    """Settings that decide a model's outputs, the same wherever it is run."""

    views: Views = "one"
    """Views of each image; their probabilities are averaged."""
    precision: Literal["fp32", "bf16"] = "fp32"
    multi_label: bool = False

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> "InferenceSpec":
        """Read the settings that stand in the config.json of a model."""
        return cls(
            views=extra.get("eval_views", "one"),
            precision=extra.get("precision", "fp32"),
            multi_label=bool(extra.get("multi_label", False)),
        )


@runtime_checkable
class IndexedBatches(Protocol):
    """A loader whose batches several ranks can divide."""

    def enumerate_batches(
        self, epoch: int, start: int, stride: int
    ) -> Iterator[tuple[int, Batch]]: ...


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits and targets of some examples, in order."""

    ids: tuple[str, ...]
    labels: np.ndarray
    """Class index of each example, [examples]."""
    targets: np.ndarray
    """One-hot, soft or multi-hot targets, [examples, classes]."""
    logits: np.ndarray
    """[examples, classes]."""


def tta_views(image: Tensor, views: Views) -> list[Tensor]:
    """Return the views of a batch: unchanged, mirrored, and turned if square.

    Clips with views, [batch, views, frames, channels, height, width], give each view.
    """
    if image.ndim == 6:
        return [view for clip in image.unbind(1) for view in tta_views(clip, views)]
    if views == "one":
        return [image]
    if views == "flip":
        return [image, image.flip(-1)]
    mirrored = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    if image.shape[-1] != image.shape[-2]:
        return mirrored
    return mirrored + [view.transpose(-1, -2) for view in mirrored]


@torch.no_grad()
def predict_logits(model: nn.Module, image: Tensor, spec: InferenceSpec) -> Tensor:
    """Return float32 logits of a batch, [batch, classes], averaged over its views."""
    bf16 = spec.precision == "bf16"
    with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
        outputs = [model(view).float() for view in tta_views(image, spec.views)]
    if len(outputs) == 1:
        return outputs[0]
    if spec.multi_label:
        mean = torch.stack([output.sigmoid() for output in outputs]).mean(0)
        return torch.logit(mean.clamp(1e-7, 1 - 1e-7))
    logs = torch.stack([output.log_softmax(-1) for output in outputs])
    return logs.logsumexp(0) - float(np.log(len(outputs)))


def predict_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    spec: InferenceSpec = InferenceSpec(),
) -> Predictions:
    """Run `model`, in eval mode, over `batches`."""
    model.eval()
    return _concatenate([_predict_batch(model, b, device, spec) for b in batches])


def predict_split(
    model: nn.Module,
    loader: IndexedBatches,
    *,
    device: torch.device,
    spec: InferenceSpec = InferenceSpec(),
) -> Predictions:
    """Run `model`, in eval mode, over the batches of `loader`, divided among the ranks.

    Ranks take full batches, the same as one process has: the last bits of a row depend
    on the other rows of its batch. Every rank returns all rows, in the loader's order.
    """
    model.eval()
    local = [
        (index, _predict_batch(model, batch, device, spec))
        for index, batch in loader.enumerate_batches(0, get_rank(), get_world_size())
    ]
    parts = sorted(
        (part for rank in all_gather(local) for part in rank), key=lambda part: part[0]
    )
    return _concatenate([predictions for _, predictions in parts])


def _predict_batch(
    model: nn.Module, batch: Batch, device: torch.device, spec: InferenceSpec
) -> Predictions:
    logits = predict_logits(model, batch.image.to(device), spec)
    target = batch.target
    return Predictions(
        batch.id, target.label.numpy(), target.shares.numpy(), logits.cpu().numpy()
    )


def _concatenate(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        tuple(name for part in parts for name in part.ids),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )


def split_loader(
    dataset: Dataset,
    split: str,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
) -> Loader:
    """Return a loader of a split, or of all for "", as evaluated, in a fixed order."""
    return Loader(
        dataset=dataset,
        examples=dataset.select(split) if split else dataset.examples,
        transform=evaluation_transform(preprocess),
        batch_size=batch_size,
        workers=workers,
    )


def compute_metrics(
    predictions: Predictions,
    classes: Sequence[str],
    bad: Sequence[BadFile],
    *,
    multi_label: bool = False,
) -> Classification | MultiLabel:
    """Compute the metrics of a split; undecodable files count as wrong predictions."""
    if not multi_label:
        unreadable = [file.label[0] for file in bad]
        return classify(
            predictions.logits, predictions.labels, classes, unreadable=unreadable
        )
    probabilities = 1 / (1 + np.exp(-predictions.logits.astype(np.float64)))
    targets = (predictions.targets > 0).astype(np.int64)
    missing = np.zeros((len(bad), len(classes)), dtype=np.int64)
    for row, file in zip(missing, bad, strict=True):
        row[list(file.label)] = 1
    return multilabel(probabilities, targets, classes, unreadable=missing)


def write_result(
    folder: Path,
    split: str,
    predictions: Predictions,
    result: Classification | MultiLabel,
    *,
    bad: Sequence[BadFile],
) -> None:
    """Write <split>.json into `folder`, and for one label per image <split>.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{split}.json", result.to_dict())
    if isinstance(result, Classification):
        write_predictions(
            folder / f"{split}.csv",
            predictions.ids,
            predictions.logits,
            predictions.labels,
            result.classes,
            unreadable=[(file.path, file.label[0]) for file in bad],
        )
