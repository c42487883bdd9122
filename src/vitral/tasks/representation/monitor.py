"""Monitor of a training without labels: loss on held-out images, and kNN accuracy.

Where the images have classes, how often neighbours in the features share one says
whether anything was learned that a classifier can use (arXiv 1805.01978, 2104.14294).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vitral.atomic_io import write_json
from vitral.data import Dataset, Example, Preprocess, split_loader
from vitral.data.audit import MAX_BAD, require_few_unread
from vitral.errors import DataError
from vitral.evaluation import Probe
from vitral.evaluation.probes import knn
from vitral.models import VisionModel
from vitral.nested import to_device
from vitral.tasks.features import ExtractedFeatures, extract_features
from vitral.tasks.monitor import Monitor
from vitral.tasks.representation.reconstructions import draw_reconstructions
from vitral.training.loss import mean_loss

RESULT_FILE = "representation.json"
NUM_NEIGHBORS = 20
MAX_TRAIN_IMAGES = 5_000
"""Training images that are asked, evenly chosen: enough for a monitor."""


class MonitorResult(NamedTuple):
    n: int
    """Images of the split."""
    unread: int
    """Those of them that could not be decoded."""
    loss: float
    """Mean over the others."""
    knn: Probe | None
    """None where the images have no classes, or several each."""


@dataclass(frozen=True, kw_only=True)
class FeatureMonitor(Monitor):
    """The data and settings of all evaluations of a run."""

    dataset: Dataset
    preprocess: Preprocess
    batch_size: int
    device: torch.device
    bf16: bool
    max_bad: float = MAX_BAD
    """Share of a split that may be unreadable, above 1 its number."""

    def evaluate(self, objective: nn.Module, model: VisionModel) -> dict[str, float]:
        """Return the loss on val, and the accuracy of neighbours if there is one."""
        result = self.measure(objective, model, "val")
        metrics = {"loss": result.loss}
        if result.knn is not None:
            metrics["knn_accuracy"] = result.knn.accuracy
        return metrics

    def finalize(
        self, objective: nn.Module, model: VisionModel, folder: Path, name: str
    ) -> dict[str, dict[str, Any]]:
        """Write representation.json and a figure of reconstructions."""
        numbers: dict[str, dict[str, Any]] = {}
        summaries: dict[str, Any] = {}
        for split in filter(self.dataset.select, ("val", "test")):
            result = self.measure(objective, model, split)
            numbers[split], summaries[split] = _summarize(result)
        write_json(folder / RESULT_FILE, {"objective": name, "splits": summaries})
        draw_reconstructions(folder, self.dataset, objective, self.preprocess)
        return numbers

    def measure(
        self, objective: nn.Module, model: VisionModel, split: str
    ) -> MonitorResult:
        """Compute the loss of `objective` and the kNN accuracy of `model`'s features.

        Args:
            objective: in eval mode it hides the same patches each time.
            model: the averaged weights where there are some.
        """
        loss, read = self._compute_loss(objective, split)
        n = len(self.dataset.select(split))
        return MonitorResult(n, n - read, loss, self._run_knn(model, split))

    def _compute_loss(self, objective: nn.Module, split: str) -> tuple[float, int]:
        """Return the mean loss, and the number of images that could be read.

        Raises:
            DataError: more images became unreadable than the audit accepts.
        """
        loader = split_loader(
            self.dataset, split, self.preprocess, batch_size=self.batch_size
        )
        total, images = 0.0, 0
        objective.eval()
        for batch in loader.epoch(0):
            moved = to_device(batch, self.device)
            with (
                torch.no_grad(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
            ):
                loss = mean_loss(objective(moved))
            total += float(loss) * len(batch.id)
            images += len(batch.id)
        if not images:
            raise DataError(
                f"None of the images of {split} can be decoded, so there is no loss: "
                "run `vitral data check`."
            )
        require_few_unread(loader.failures, len(loader.examples), self.max_bad)
        return total / images, images

    def _run_knn(self, model: VisionModel, split: str) -> Probe | None:
        train = self.dataset.select("train")
        one_class_each = all(len(example.label) == 1 for example in train)
        if len(self.dataset.classes) < 2 or not one_class_each:
            return None
        number = min(len(train), MAX_TRAIN_IMAGES)
        chosen = [train[i * len(train) // number] for i in range(number)]
        with torch.no_grad():
            known = self._extract_features(model, chosen)
            asked = self._extract_features(model, self.dataset.select(split))
        answerable = torch.isin(asked.y, known.y)
        if not answerable.any() or len(known.y.unique()) < 2:
            return None
        k = min(NUM_NEIGHBORS, len(known.y))
        probe = knn(known.x, known.y, asked.x[answerable], asked.y[answerable], k=k)
        return probe.with_unread(len(asked.bad))

    def _extract_features(
        self, model: VisionModel, examples: Sequence[Example]
    ) -> ExtractedFeatures:
        chosen = replace(self.dataset, examples=tuple(examples))
        loader = split_loader(chosen, "", self.preprocess, batch_size=self.batch_size)
        return extract_features(model, loader)


def _summarize(result: MonitorResult) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of a split for the log, and its entry of `RESULT_FILE`."""
    numbers: dict[str, Any] = {"loss": result.loss}
    summary: dict[str, Any] = {"n": result.n, "unread": result.unread}
    summary |= {"loss": result.loss, "knn": None}
    if result.knn is not None:
        numbers["knn_accuracy"] = result.knn.accuracy
        summary["knn"] = result.knn.to_dict()
        del summary["knn"]["predicted"]
    return numbers, summary
