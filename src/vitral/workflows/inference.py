"""Run a model over batches or a split, and measure its outputs.

Test-time augmentation averages over the views of an image (mirror images, symmetries)
or of a clip, as the task averages.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from vitral.atomic_io import write_json
from vitral.data import BadFile, Batch, Example, Failure
from vitral.errors import WeightsError
from vitral.json_file import shorten
from vitral.tasks import Metric, Result
from vitral.training.distributed import all_gather, get_rank, get_world_size
from vitral.workflows.unread import find_unread

Views = Literal["one", "flip", "dihedral"]
Precision = Literal["fp32", "bf16"]


def mean_outputs(outputs: Sequence[Tensor]) -> Tensor:
    """Return the mean of the outputs of several views."""
    return torch.stack(list(outputs)).mean(0)


@dataclass(frozen=True, kw_only=True)
class InferenceSpec:
    """Settings that decide a model's outputs, the same wherever it is run."""

    views: Views = "one"
    """Views of each image, which are averaged."""
    precision: Precision = "fp32"
    average: Callable[[Sequence[Tensor]], Tensor] = mean_outputs
    """Average of the outputs of several views."""

    @classmethod
    def from_extra(
        cls,
        extra: Mapping[str, Any],
        average: Callable[[Sequence[Tensor]], Tensor] = mean_outputs,
    ) -> "InferenceSpec":
        """Read the settings that stand in the config.json of a model.

        Raises:
            WeightsError: one of them is none of the known words.
        """
        for key, known in (("eval_views", Views), ("precision", Precision)):
            if key in extra and extra[key] not in (words := get_args(known)):
                raise WeightsError(
                    f"The model's `{key}` is {shorten(extra[key])}, expected one of "
                    f"{', '.join(words)}: its config.json was edited. Copy it from "
                    "where the model was made, or remove the key."
                )
        return cls(
            views=extra.get("eval_views", "one"),
            precision=extra.get("precision", "fp32"),
            average=average,
        )


@runtime_checkable
class IndexedBatches(Protocol):
    """A loader whose batches several ranks can divide."""

    @property
    def examples(self) -> tuple[Example, ...]: ...

    @property
    def failures(self) -> tuple[Failure, ...]: ...

    def enumerate_batches(
        self, epoch: int, start: int, stride: int
    ) -> Iterator[tuple[int, Batch]]: ...


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
def predict_outputs(model: nn.Module, image: Tensor, spec: InferenceSpec) -> Tensor:
    """Return float32 outputs of a batch, [batch, ...], averaged over its views."""
    bf16 = spec.precision == "bf16"
    with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
        outputs = [model(view).float() for view in tta_views(image, spec.views)]
    return outputs[0] if len(outputs) == 1 else spec.average(outputs)


def measure_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    metric: Metric,
    *,
    device: torch.device,
    spec: InferenceSpec = InferenceSpec(),
) -> None:
    """Run `model`, in eval mode, over `batches`, and add them to `metric`."""
    model.eval()
    for index, batch in enumerate(batches):
        _measure_batch(model, index, batch, metric, device=device, spec=spec)


def measure_split(
    model: nn.Module,
    loader: IndexedBatches,
    metric: Metric,
    *,
    device: torch.device,
    spec: InferenceSpec = InferenceSpec(),
) -> tuple[BadFile, ...]:
    """Add the batches of `loader`, divided among the ranks, to the metric of each rank.

    Ranks take full batches, the same as one process has: the last bits of a row depend
    on the other rows of its batch.

    Returns:
        the examples that could not be read, which the metric does not know.
    """
    model.eval()
    seen: list[str] = []
    batches = loader.enumerate_batches(0, get_rank(), get_world_size())
    for index, batch in batches:
        _measure_batch(model, index, batch, metric, device=device, spec=spec)
        seen += batch.id
    reasons = dict(loader.failures)
    if get_world_size() > 1:
        metric.merge(all_gather(metric))
        parts = all_gather((seen, reasons))
        seen = [name for names, _ in parts for name in names]
        reasons = {name: text for _, texts in parts for name, text in texts.items()}
    return find_unread(loader.examples, seen, reasons)


def _measure_batch(
    model: nn.Module,
    index: int,
    batch: Batch,
    metric: Metric,
    *,
    device: torch.device,
    spec: InferenceSpec,
) -> None:
    outputs = predict_outputs(model, batch.image.to(device), spec)
    metric.update(index, outputs.cpu(), batch)


def write_result(
    folder: Path,
    name: str,
    metric: Metric,
    result: Result,
    *,
    bad: Sequence[BadFile],
) -> None:
    """Write <name>.json into `folder`, and what the task writes for each example."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", result.to_dict())
    metric.write(folder, name, result, bad)
