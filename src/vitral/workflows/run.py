"""A run folder, opened: the best model, its pre-processing, its numbers."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

import vitral.weights
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.evaluation import softmax
from vitral.models import MergeSchedule, VisionModel, set_merge_if_given
from vitral.workflows.inference import predict_logits
from vitral.workflows.inputs import Readable, load_input

if TYPE_CHECKING:
    import vitral.workflows.config  # at run time with every setting, and half a second


class ClassPrediction(NamedTuple):
    """What a model says about one image."""

    label: str
    """The most probable class; several, joined by `;`, for a multi-label model."""
    confidence: float
    probabilities: dict[str, float]


class Run:
    """A finished run, a model folder that was taken out of one, or an exported model.

    `run.model(run.preprocess("cat.jpg")[None])` gives logits; `run.predict(images)`
    gives classes with probabilities, averaged over the views that the run evaluates.
    """

    merge: int | None = None
    """Tokens merged in each block, if asked for on opening; None for as trained."""
    merge_schedule: MergeSchedule | None = None
    """How they are spread over the blocks, if asked for; None for `constant`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._folder = self.path
        self.model: VisionModel
        self.preprocess: Preprocess
        self.classes: tuple[str, ...]
        self.extra: dict[str, Any]
        if vitral.weights.is_exported(self.path):
            found = vitral.weights.read_exported(self.path)
            self.model, self.preprocess, self.classes, self.extra, _ = found
            self._require_names()
            return
        if (self.path / "model" / "config.json").is_file():
            self._folder = self.path / "model"
        if not (self._folder / "config.json").is_file():
            raise WeightsError(
                f"{self.path} holds no trained model: it has neither model/config.json "
                "nor config.json. Give the folder that `vitral train --out` made, and "
                "finish the run with `--resume` if it was cut short; or what `vitral "
                "export` wrote."
            )
        source = vitral.weights.read(self._folder)
        loaded = vitral.weights.build(source, source.config)
        self.model, self.preprocess = loaded.model, source.preprocess
        self.classes, self.extra = source.classes, source.extra
        self._require_names()

    def _require_names(self) -> None:
        named, number = len(self.classes), self.model.config.num_classes
        if named and number and named != number:
            raise WeightsError(
                f"The model in {self.path} has a head of {number} classes and names of "
                f"{named}: its config.json is of another model. Copy both from where "
                "it was made, or export it again."
            )

    @cached_property
    def config(self) -> "vitral.workflows.config.TrainConfig":
        """The settings of the run."""
        from vitral.workflows.config import read_config

        file = self.path / "config.json"
        if self._folder == self.path or not file.is_file():
            raise ConfigError(
                f"{self.path} is a model without its run: it has no training config."
            )
        return read_config(file)

    @property
    def results_folder(self) -> Path:
        """Where evaluations on other data are kept: in the run, beside an exported
        model."""
        if vitral.weights.is_exported(self.path):
            return self.path.with_name(f"{self.path.stem}-evaluations")
        return self.path / "evaluations"

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The final result of each split that was evaluated, as in predictions/."""
        folder = self.path / "predictions"
        return {
            file.stem: json.loads(file.read_text())
            for file in sorted(folder.glob("*.json"))
        }

    @property
    def temperature(self) -> float:
        """What logits are divided by before the softmax, fitted on val; 1 where no
        temperature was fitted. The most probable class is the same with any."""
        kept = self.extra.get("temperature")
        if kept is None and "val" in self.metrics:
            # A run that is older than the key in model/config.json.
            kept = (self.metrics["val"].get("calibrated") or {}).get("temperature")
        return 1.0 if kept is None or self.multi_label else float(kept)

    @property
    def multi_label(self) -> bool:
        return bool(self.extra.get("multi_label", False))

    def require_head(self) -> None:
        """Refuse a model that gives features and no answers.

        Raises:
            ConfigError: it has no head.
        """
        if self.model.config.num_classes == 0:
            raise ConfigError(
                f"The model in {self.path} has no head and answers no classes, as "
                "after training without labels: fine-tune it with `vitral train DATA "
                f"--weights {self.path} --out RUN`, or measure its features with "
                "`vitral eval --protocol knn`."
            )

    def predict(
        self,
        images: Sequence[Readable],
        *,
        batch_size: int = 32,
    ) -> list[ClassPrediction]:
        """The class of each image; of each clip, if the model takes clips.

        Args:
            images: paths, contents of files, Pillow images or uint8 arrays [height,
                width, 3]; of clips paths, or uint8 arrays [frames, height, width, 3].

        Raises:
            ConfigError: the model has no head.
            ImageError: one cannot be decoded.
        """
        answers: list[ClassPrediction] = []
        for start in range(0, len(images), batch_size):
            chosen = images[start : start + batch_size]
            pixels = torch.stack([self.preprocess_input(image) for image in chosen])
            answers.extend(self.predict_pixels(pixels))
        return answers

    def preprocess_input(self, image: Readable) -> torch.Tensor:
        """An image or a clip as it enters the model in evaluation.

        Raises:
            ImageError: it cannot be decoded, or is of the other kind.
        """
        return load_input(self.preprocess, image)

    def predict_pixels(self, pixels: torch.Tensor) -> Iterable[ClassPrediction]:
        """The classes of a batch that is pre-processed already.

        Raises:
            ConfigError: the model has no head.
        """
        table = self.probabilities(pixels)
        names = self.class_names(table.shape[1])
        for row in table:
            values = {name: float(p) for name, p in zip(names, row, strict=True)}
            yield ClassPrediction(self.top_label(row, names), float(row.max()), values)

    def probabilities(self, pixels: torch.Tensor) -> np.ndarray:
        """Of each class, [batch, classes], for a batch that is pre-processed already,
        as it is evaluated: with the run's views, precision and temperature.

        Raises:
            ConfigError: the model has no head.
        """
        self.require_head()
        device = next(self.model.parameters()).device
        logits = predict_logits(
            self.model,
            pixels.to(device),
            views=self.extra.get("eval_views", "one"),
            bf16=self.extra.get("precision") == "bf16",
            multi_label=self.multi_label,
        ).cpu()
        if self.multi_label:
            return logits.sigmoid().numpy()
        return softmax(logits.numpy() / self.temperature)

    def class_names(self, count: int) -> tuple[str, ...]:
        """The names of the model's `count` classes; their indices if it knows none."""
        return self.classes or tuple(str(i) for i in range(count))

    def top_label(self, row: np.ndarray, names: Sequence[str]) -> str:
        """The most probable class of one row; all from 0.5 on for several labels."""
        if self.multi_label:
            return ";".join(n for n, p in zip(names, row, strict=True) if p >= 0.5)
        return names[int(row.argmax())]


def open_run(
    path: str | Path,
    merge: int | None = None,
    merge_schedule: MergeSchedule | None = None,
) -> Run:
    """Open a run folder, the model folder of one, or an exported model.

    Args:
        merge: tokens to merge in each block from now on, 0 for none; see
            `vitral.models.set_merge`. None leaves the model as it was trained.
        merge_schedule: how they are spread over the blocks; None for `constant`.

    Raises:
        WeightsError: there is no trained model, or its files are corrupt.
        ConfigError: the model cannot merge tokens, or a schedule comes without `merge`.
    """
    run = Run(path)
    set_merge_if_given(run.model, merge, merge_schedule)
    run.merge, run.merge_schedule = merge, merge_schedule
    return run
