"""`Run`: a trained model with its preprocessing, its classes and its metrics."""

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import vitral.weights
from vitral.data import Preprocess, Readable, Size
from vitral.errors import ConfigError, WeightsError
from vitral.json_file import read_object
from vitral.models import MergeSchedule, VisionModel, set_merge_if_given
from vitral.progress import unfinished_sentence
from vitral.tasks import (
    Answer,
    AnswerContext,
    ObjectiveConfig,
    Result,
    find_task,
    read_result,
)
from vitral.weights.detect import resolve_path
from vitral.workflows.inference import InferenceSpec, predict_outputs

if TYPE_CHECKING:
    import vitral.workflows.config  # at run time with every setting, and half a second

logger = logging.getLogger(__name__)


class Run:
    """A finished run, a model folder copied from one, or an exported model.

    `run.model(run.preprocess("cat.jpg")[None])` returns outputs. `run.predict(images)`
    returns answers, averaged over the run's evaluation views.
    """

    merge: int | None = None
    """Tokens merged in each block, if set on opening; None leaves it as trained."""
    merge_schedule: MergeSchedule | None = None
    """Spread of the merged tokens over the blocks, if set; None for `constant`."""

    def __init__(self, path: str | Path) -> None:
        self.path = self._folder = _find_folder(path)
        self.model: VisionModel
        self.preprocess: Preprocess
        self.classes: tuple[str, ...]
        """Names of the outputs, in order."""
        self.extra: dict[str, Any]
        self._load()
        self._require_names()
        num_outputs = self.model.config.num_classes
        names = self.classes or tuple(str(i) for i in range(num_outputs))
        try:
            self.task = find_task(self.extra, num_outputs)
            self.labels = self.task.load_labels(names, self.extra)
        except ConfigError as error:
            raise WeightsError(f"{self._folder}: {error}") from error
        self.task.check_metadata(self.extra, self.labels)
        InferenceSpec.from_extra(self.extra)

    def _load(self) -> None:
        if vitral.weights.is_exported(self.path):
            exported = vitral.weights.read_exported(self.path)
            self.model, self.preprocess, self.classes, self.extra, _ = exported
            return
        if (self.path / "model" / "config.json").is_file():
            self._folder = self.path / "model"
        if not (self._folder / "config.json").is_file():
            raise WeightsError(
                f"{self.path} holds no trained model: it has neither model/config.json "
                "nor config.json. Give the folder that `vitral train --out` made, and "
                "finish the run with `resume=True` if it was cut short; or what "
                "`vitral export` wrote."
            )
        source = vitral.weights.read(self._folder)
        loaded = vitral.weights.build(source, source.config, dtype=torch.float32)
        self.model = loaded.model
        self.preprocess = source.preprocess.for_input(source.config.input_shape)
        self.classes, self.extra = source.classes, source.extra

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
    def objective(self) -> ObjectiveConfig:
        """Settings of what the model learned; the task's own without its run."""
        try:
            return self.config.objective
        except ConfigError:
            return self.task.default_objective(self.labels, 0.0)

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
        return {file.stem: read_object(file) for file in sorted(folder.glob("*.json"))}

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Plain data stored with the model, with what was fitted on val."""
        val = self.result("val")
        # Runs from before the keys in model/config.json have it in their results.
        return {**({} if val is None else val.calibration()), **self.extra}

    def result(self, split: str) -> Result | None:
        """Return the stored result of a split; None without a readable one."""
        file = self.path / "predictions" / f"{split}.json"
        try:
            return read_result(read_object(file))
        except ConfigError:
            return None

    @property
    def inference_spec(self) -> InferenceSpec:
        """Views and precision of the run's evaluation."""
        average = partial(self.task.average, labels=self.labels)
        return InferenceSpec.from_extra(self.extra, average)

    def require_head(self) -> None:
        """Check that the model answers, and gives not features alone.

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
    ) -> list[Answer]:
        """Return the answer for each image, or for each clip for a model of clips.

        Args:
            images: paths, contents of files, Pillow images or uint8 arrays [height,
                width, 3]; for clips paths or uint8 arrays [frames, height, width, 3].
            batch_size: images per forward pass.

        Raises:
            ConfigError: the model has no head.
            ImageError: an image cannot be decoded.
        """
        self.require_head()
        answers: list[Answer] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            pixels = torch.stack([self.preprocess_input(image) for image in batch])
            answers.extend(self.decode(self.predict_outputs(pixels)))
        return answers

    def preprocess_input(self, image: Readable) -> torch.Tensor:
        """Load an image or a clip as it enters the model in evaluation.

        Raises:
            ImageError: it cannot be decoded, or is of the other kind.
        """
        return self.preprocess.load(image)

    def predict_outputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the outputs of a preprocessed batch on the CPU, float32."""
        device = next(self.model.parameters()).device
        spec = self.inference_spec
        return predict_outputs(self.model, pixels.to(device), spec).cpu()

    def decode(
        self,
        outputs: torch.Tensor,
        *,
        top: int | None = None,
        sizes: tuple[Size, ...] = (),
    ) -> list[Answer]:
        """Return the answers that outputs stand for, [batch, ...].

        Args:
            top: number of names to list with an answer; None for all.
            sizes: height and width of each upright picture.
        """
        context = AnswerContext(
            labels=self.labels,
            metadata=self.metadata,
            top=top,
            sizes=sizes,
            preprocess=self.preprocess,
        )
        return self.task.decode(outputs, context)


def _find_folder(path: str | Path) -> Path:
    """Return the folder of a run, or that of named weights that answer classes.

    Raises:
        ConfigError: the named weights give features alone; nothing was fetched.
    """
    if Path(path).exists() or vitral.weights.is_exported(path):
        return Path(path)
    record = vitral.weights.zoo.find_record(str(path))
    if record is None:
        return Path(path)
    if record.classes == 0:
        raise ConfigError(
            f"{record.name} gives features alone and answers no classes: train a head "
            f"with `vitral train DATA --weights {record.name} --out RUN`, or measure "
            "its features with `vitral eval --protocol knn`. Nothing was fetched."
        )
    return resolve_path(path)


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
    if sentence := unfinished_sentence(run.path):
        logger.warning("%s: %s", run.path, sentence)
    set_merge_if_given(run.model, merge, merge_schedule)
    run.merge, run.merge_schedule = merge, merge_schedule
    return run
