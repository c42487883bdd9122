"""`Run`: a trained model with its preprocessing, its classes and its metrics."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import vitral.weights
from vitral.data import Preprocess, Readable
from vitral.errors import ConfigError, WeightsError
from vitral.models import MergeSchedule, VisionModel, set_merge_if_given
from vitral.tasks.classification import softmax
from vitral.workflows.inference import InferenceSpec, predict_logits

if TYPE_CHECKING:
    import vitral.workflows.config  # at run time with every setting, and half a second


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """Prediction of a model for one image."""

    label: str
    """The most probable class; several, joined by `;`, for a multi-label model."""
    confidence: float
    probabilities: dict[str, float]


class Run:
    """A finished run, a model folder copied from one, or an exported model.

    `run.model(run.preprocess("cat.jpg")[None])` returns logits. `run.predict(images)`
    returns classes with probabilities, averaged over the run's evaluation views.
    """

    merge: int | None = None
    """Tokens merged in each block, if set on opening; None leaves it as trained."""
    merge_schedule: MergeSchedule | None = None
    """Spread of the merged tokens over the blocks, if set; None for `constant`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._folder = self.path
        self.model: VisionModel
        self.preprocess: Preprocess
        self.classes: tuple[str, ...]
        self.extra: dict[str, Any]
        if vitral.weights.is_exported(self.path):
            exported = vitral.weights.read_exported(self.path)
            self.model, self.preprocess, self.classes, self.extra, _ = exported
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
        self.model = loaded.model
        self.preprocess = source.preprocess.for_input(source.config.input_shape)
        self.classes, self.extra = source.classes, source.extra
        self._require_names()

    def _require_names(self) -> None:
        num_names, num_classes = len(self.classes), self.model.config.num_classes
        if num_names and num_classes and num_names != num_classes:
            raise WeightsError(
                f"The model in {self.path} has a head of {num_classes} classes and "
                f"names of {num_names}: its config.json is of another model. Copy both "
                "from where it was made, or export it again."
            )

    @cached_property
    def config(self) -> "vitral.workflows.config.TrainConfig":
        """Read the settings of the run."""
        from vitral.workflows.config import read_config

        file = self.path / "config.json"
        if self._folder == self.path or not file.is_file():
            raise ConfigError(
                f"{self.path} is a model without its run: it has no training config."
            )
        return read_config(file)

    @property
    def results_folder(self) -> Path:
        """Folder of evaluations on other data: in a run, or next to an export."""
        if vitral.weights.is_exported(self.path):
            return self.path.with_name(f"{self.path.stem}-evaluations")
        return self.path / "evaluations"

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Final result of each evaluated split, read from predictions/."""
        folder = self.path / "predictions"
        return {
            file.stem: json.loads(file.read_text())
            for file in sorted(folder.glob("*.json"))
        }

    @property
    def temperature(self) -> float:
        """Divisor of the logits before the softmax, fitted on val; 1 if not fitted.

        It never changes the most probable class.
        """
        value = self.extra.get("temperature")
        if value is None and "val" in self.metrics:
            # Runs from before the key in model/config.json.
            value = (self.metrics["val"].get("calibrated") or {}).get("temperature")
        return 1.0 if value is None or self.multi_label else float(value)

    @property
    def multi_label(self) -> bool:
        return self.inference_spec.multi_label

    @property
    def inference_spec(self) -> InferenceSpec:
        """Views and precision of the run's evaluation."""
        return InferenceSpec.from_extra(self.extra)

    def require_head(self) -> None:
        """Check that the model predicts classes, not features alone.

        Raises:
            ConfigError: the model has no head.
        """
        if self.model.config.num_classes == 0:
            raise ConfigError(
                f"The model in {self.path} has no head and answers no classes, as "
                "after training without labels: fine-tune it with `vitral train DATA "
                f"--weights {self.path} --out RUN`, or measure its features with "
                "`vitral eval --protocol knn`."
            )

    def predict(
        self, images: Sequence[Readable], *, batch_size: int = 32
    ) -> list[ClassPrediction]:
        """Predict the class of each image, or of each clip for a model of clips.

        Args:
            images: paths, contents of files, Pillow images or uint8 arrays [height,
                width, 3]; for clips paths or uint8 arrays [frames, height, width, 3].
            batch_size: images per forward pass.

        Raises:
            ConfigError: the model has no head.
            ImageError: an image cannot be decoded.
        """
        predictions: list[ClassPrediction] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            pixels = torch.stack([self.preprocess_input(image) for image in batch])
            predictions.extend(self.predict_pixels(pixels))
        return predictions

    def preprocess_input(self, image: Readable) -> torch.Tensor:
        """Load an image or a clip as it enters the model in evaluation.

        Raises:
            ImageError: it cannot be decoded, or is of the other kind.
        """
        return self.preprocess.load(image)

    def predict_pixels(self, pixels: torch.Tensor) -> Iterable[ClassPrediction]:
        """Predict the classes of a batch that is already preprocessed.

        Raises:
            ConfigError: the model has no head.
        """
        table = self.probabilities(pixels)
        names = self.class_names(table.shape[1])
        for row in table:
            values = {name: float(p) for name, p in zip(names, row, strict=True)}
            yield ClassPrediction(self.top_label(row, names), float(row.max()), values)

    def probabilities(self, pixels: torch.Tensor) -> np.ndarray:
        """Return the class probabilities, [batch, classes], of a preprocessed batch.

        They use the run's evaluation views, precision and temperature.

        Raises:
            ConfigError: the model has no head.
        """
        self.require_head()
        return self.to_probabilities(self.predict_logits(pixels))

    def predict_logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits of a preprocessed batch on the CPU, float32."""
        device = next(self.model.parameters()).device
        return predict_logits(self.model, pixels.to(device), self.inference_spec).cpu()

    def to_probabilities(self, logits: torch.Tensor) -> np.ndarray:
        """Return the probabilities of logits, [batch, classes], calibrated."""
        if self.multi_label:
            return logits.sigmoid().numpy()
        return softmax(logits.numpy() / self.temperature)

    def class_names(self, count: int) -> tuple[str, ...]:
        """Return the names of the model's `count` classes, or their indices."""
        return self.classes or tuple(str(i) for i in range(count))

    def top_classes(self, row: np.ndarray, top: int) -> ClassPrediction:
        """Return the prediction of a row of probabilities, with the `top` highest."""
        names = self.class_names(len(row))
        order = (-row).argsort(kind="stable")
        values = {names[i]: float(row[i]) for i in order[:top]}
        return ClassPrediction(self.top_label(row, names), float(row[order[0]]), values)

    def top_label(self, row: np.ndarray, names: Sequence[str]) -> str:
        """Return the most probable class of a row; for multi-label all from 0.5 on."""
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
        merge: tokens to merge in each block, 0 for none; see `vitral.models.set_merge`.
            None leaves the model as trained.
        merge_schedule: spread of the merged tokens over the blocks; None: `constant`.

    Raises:
        WeightsError: there is no trained model, or its files are corrupt.
        ConfigError: the model cannot merge tokens, or a schedule comes without `merge`.
    """
    run = Run(path)
    set_merge_if_given(run.model, merge, merge_schedule)
    run.merge, run.merge_schedule = merge, merge_schedule
    return run
