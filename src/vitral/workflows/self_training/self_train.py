"""Self-training, Noisy Student (arXiv 1911.04252): rounds of teacher and student.

A teacher predicts unlabelled images. A student of equal or larger size learns from
these and from labelled images, with noise, and is the next teacher. Each round is a run
folder of its own, written by `train`.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vitral import config_io
from vitral.atomic_io import write_json
from vitral.data import Dataset
from vitral.data.sources import PseudoData
from vitral.data.split import held_out, save
from vitral.errors import ConfigError, DataError
from vitral.tasks.classification import PseudoLabels, pseudo_labels
from vitral.workflows.config import TrainConfig
from vitral.workflows.dataset import apply_split, log_left_out, open_data
from vitral.workflows.evaluate import RunComparison, compare_runs, evaluate_split
from vitral.workflows.run import Run
from vitral.workflows.run_lock import translate_os_errors
from vitral.workflows.runtime import Runtime, pick_device
from vitral.workflows.self_training.config import (
    LAST_FILE,
    SelfTrainingConfig,
    absolute_path,
    find_last_round,
    labeled_source,
    read_temperature,
    start_or_resume,
    student_config,
    student_smoothing,
)
from vitral.workflows.self_training.pseudo_labels import (
    DATA_FILE,
    RoundLabels,
    TeacherPredictions,
    UnlabeledSet,
    list_unlabeled,
    predict_unlabeled,
    repeat_factors,
    write_labels,
)
from vitral.workflows.self_training.report import read_truth, write_pseudo_report
from vitral.workflows.self_training.results import (
    RoundResult,
    make_result,
    round_results,
)
from vitral.workflows.self_training.student_noise import student_notes
from vitral.workflows.train import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelfTrainingResult:
    """Results of all finished rounds."""

    out: Path
    split: str
    """Split that the accuracies are measured on; empty if nothing is held out."""
    results: tuple[RoundResult, ...]
    """The teacher first, then each round."""
    comparison: RunComparison | None
    """The last round compared with the teacher, image by image."""


def self_train(
    config: TrainConfig,
    unlabelled: str | Path,
    out: str | Path,
    *,
    teacher: str | Path | None = None,
    settings: SelfTrainingConfig | None = None,
    truth: str | Path | None = None,
    labels_only: bool = False,
    runtime: Runtime | None = None,
) -> SelfTrainingResult:
    """Train students on a teacher's labels; the same call resumes an interrupted one.

    Args:
        config: of the students, and of the teacher if none is given; its `data` are
            the labelled images, with the val and test splits of the teacher's run.
        unlabelled: a folder with images at any depth; it is not written to.
        teacher: a run of the same classes; None to train one in `out`/round-0.
        truth: a table `path,label` of the unlabelled images, for the report alone.
        runtime: device and workers of every training.
        labels_only: stop once the next round's labels are written, to correct them.

    Raises:
        ConfigError: `out` is in use or began with other settings, or the teacher has
            other classes.
        DataError: no image is left to label, or no prediction reaches the threshold.
        VitralError: raised by `train`.
    """
    out, settings = Path(out), settings or SelfTrainingConfig()
    student_smoothing(config)  # refuses before anything is written
    runner = _RoundRunner(
        config=config,
        unlabelled=str(unlabelled),
        out=out,
        teacher=str(teacher or ""),
        settings=settings,
        truth=str(truth or ""),
        runtime=runtime or Runtime(),
    )
    resume_key = {
        "config": config_io.to_dict(config),
        "settings": asdict(settings),
        "unlabelled": runner.unlabelled,
        "teacher": runner.teacher,
    }
    with translate_os_errors(out):
        start_or_resume(out, resume_key)
        return runner.run(labels_only)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RoundRunner:
    """Run the rounds of one self-training."""

    config: TrainConfig
    unlabelled: str
    out: Path
    teacher: str
    settings: SelfTrainingConfig
    truth: str
    runtime: Runtime

    def run(self, labels_only: bool) -> SelfTrainingResult:
        teacher = self._get_teacher()
        labelled = self._open_labeled(teacher)
        log_left_out(labelled)
        for note in student_notes(self.config, teacher):
            logger.info(f"note: {note}")
        device = pick_device(self.runtime.device)
        unlabeled = list_unlabeled(
            labelled, self.unlabelled, self.out / "unlabelled.json"
        )
        logger.info(
            f"unlabelled: {len(unlabeled.images.examples):,} images, "
            f"{len(unlabeled.left_out):,} left out"
        )
        log_left_out(unlabeled.images)
        split, results = self._evaluate_teacher(teacher, labelled, device)
        latest = teacher
        for index in range(1, self.settings.rounds + 1):
            folder = self.out / f"round-{index}"
            labels = self.out / f"pseudo-{index}"
            if not (folder / LAST_FILE).is_file():
                self._write_round_labels(
                    latest, labelled, unlabeled, labels, device=device
                )
                if labels_only:
                    return SelfTrainingResult(
                        out=self.out, split=split, results=results, comparison=None
                    )
                logger.info(f"round {index}: training in {folder}")
                student = student_config(self.config, labels / DATA_FILE)
                train(student, folder, resume=True, runtime=self.runtime)
            latest = Run(folder)
            results += round_results(f"round {index}", latest, split)
        return self._write_result(split, results)

    def _get_teacher(self) -> Run:
        """Return the given run, or one that is trained on the labelled images alone."""
        if self.teacher:
            return Run(find_last_round(Path(self.teacher)))
        folder = self.out / "round-0"
        if (folder / LAST_FILE).is_file():
            return Run(folder)
        logger.info(f"teacher: training on the labelled images alone in {folder}")
        return train(self.config, folder, resume=True, runtime=self.runtime)

    def _open_labeled(self, teacher: Run) -> Dataset:
        """Open the labelled images with the splits of the teacher's run."""
        config = self.config
        dataset = open_data(config)
        teacher.task.require("pseudo-labels", teacher.labels, str(teacher.path))
        if teacher.classes != dataset.classes:
            raise ConfigError(
                f"The teacher {teacher.path} answers one of "
                f"{', '.join(teacher.classes[:5])}, and {config.data} has "
                f"{', '.join(dataset.classes[:5])}: both need the same classes, one an "
                "image. Train the teacher on this data first."
            )
        file = self.out / "split.csv"
        if not file.is_file():
            split = teacher.path / "split.csv"
            same_data = labeled_source(teacher) == absolute_path(config.data)
            if split.is_file() and same_data:
                dataset = apply_split(dataset, config, split)
            else:
                logger.info(
                    "note: the teacher's run does not tell which images of "
                    f"{config.data} it has learned from, so its number may be too good"
                )
            save(dataset, file)
        return apply_split(dataset, config, file)

    def _write_round_labels(
        self,
        teacher: Run,
        labelled: Dataset,
        unlabeled: UnlabeledSet,
        folder: Path,
        *,
        device: torch.device,
    ) -> None:
        """Write a round's labels, unless they exist: a person may have mended them."""
        if (folder / DATA_FILE).is_file():
            return
        folder.mkdir(exist_ok=True)
        config, settings = self.config, self.settings
        predictions, pseudo = self._predict(teacher, unlabeled, device)
        num_labelled = len(labelled.select("train"))
        num_pseudo = int(pseudo.repeats.sum())
        copies = repeat_factors(num_labelled, num_pseudo, settings.ratio)
        labels = RoundLabels(
            predictions=predictions,
            pseudo=pseudo,
            labelled_copies=copies[0],
            pseudo_copies=copies[1],
            num_labelled=num_labelled,
        )
        metadata = PseudoData(
            labelled=absolute_path(config.data),
            group_by=config.group_by,
            seed=config.seed,
            val=config.val,
            test=config.test,
            split="../split.csv",
            unlabelled=absolute_path(self.unlabelled),
            smoothing=student_smoothing(config),
            labelled_copies=copies[0],
            pseudo_copies=copies[1],
        )
        logger.info(
            f"labels: {len(pseudo.chosen):,} of {len(predictions.paths):,} images "
            f"kept, {labels.num_seen:,} an epoch with copies, beside "
            f"{num_labelled:,} labelled ones {copies[0]} times"
        )
        truth = read_truth(self.truth, teacher.classes)
        write_pseudo_report(
            folder,
            labels,
            unlabeled,
            teacher.path,
            classes=teacher.classes,
            threshold=settings.threshold,
            truth=truth,
        )
        write_labels(
            folder,
            labels,
            teacher.classes,
            metadata=metadata,
            left_out=unlabeled.left_out,
        )
        logger.info(f"labels: {folder / 'report.html'}")

    def _predict(
        self, teacher: Run, unlabeled: UnlabeledSet, device: torch.device
    ) -> tuple[TeacherPredictions, PseudoLabels]:
        """Predict the unlabelled images, and select those to learn from."""
        settings = self.settings
        temperature = read_temperature(teacher) if settings.calibrated else 1.0
        predictions = predict_unlabeled(
            teacher,
            unlabeled.images,
            device,
            workers=self.runtime.workers,
            temperature=temperature,
        )
        pseudo = pseudo_labels(
            torch.from_numpy(predictions.probabilities),
            threshold=settings.threshold,
            per_class=settings.per_class,
            temperature=settings.temperature,
            hard=settings.hard,
        )
        if not len(pseudo.chosen):
            best = float(predictions.probabilities.max())
            raise DataError(
                f"The teacher {teacher.path} is sure of no image of "
                f"{self.unlabelled}: its highest confidence is {best:.2f} "
                f"and the threshold {settings.threshold:g}. Lower the threshold."
            )
        return predictions, pseudo

    def _evaluate_teacher(
        self, teacher: Run, labelled: Dataset, device: torch.device
    ) -> tuple[str, tuple[RoundResult, ...]]:
        """Return the held-out split and the teacher's result on it."""
        split = held_out(labelled.counts())
        if not split:
            return "", ()
        folder = self.out / "teacher"
        if not (folder / f"{split}.csv").is_file():
            folder.mkdir(exist_ok=True)
            bad = [file for file in labelled.bad if file.split == split]
            evaluate_split(
                teacher, labelled, split, bad=bad, device=device, folder=folder
            )
        values = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        return split, (make_result("teacher", teacher.path, values),)

    def _write_result(
        self, split: str, results: tuple[RoundResult, ...]
    ) -> SelfTrainingResult:
        comparison = None
        if split and len(results) > 1:
            table = Path("predictions") / f"{split}.csv"
            comparison = compare_runs(
                self.out / "teacher" / f"{split}.csv", results[-1].path / table
            )
        document = {
            "split": split,
            "results": [{**asdict(r), "path": str(r.path)} for r in results],
            "compared": None if comparison is None else comparison.to_dict(),
        }
        write_json(self.out / "result.json", document)
        return SelfTrainingResult(
            out=self.out, split=split, results=results, comparison=comparison
        )
