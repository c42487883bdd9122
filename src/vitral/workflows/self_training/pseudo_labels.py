"""Pseudo-labels of one round: list the images, predict them, write the files.

Images are preprocessed as in evaluation, so nothing is random. Predictions are selected
in vitral.tasks.classification.noisy_student.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

import vitral.data
from vitral.atomic_io import write_atomic, write_json
from vitral.data import Dataset, read_unlabelled, split_loader
from vitral.data.example import Example
from vitral.data.names import escape_cell
from vitral.data.sources import TABLE, PseudoData
from vitral.errors import ConfigError, DataError
from vitral.tasks.classification import PseudoLabels, softmax
from vitral.workflows.inference import predict_outputs
from vitral.workflows.run import Run

DATA_FILE = "data.json"
"""File that names the data of a round; written last."""
MIN_TARGET_SHARE = 1e-6
"""Least probability of a class in a stored target; less is rounding."""
COLUMNS = ("path", "label", "confidence", "copies", "why")


@dataclass(frozen=True, slots=True)
class UnlabeledSet:
    """The unlabelled images, audited once for all rounds."""

    images: Dataset
    """Images that a teacher may label."""
    left_out: dict[str, str]
    """Path to reason: unreadable, or a copy of a labelled image."""


@dataclass(frozen=True, slots=True)
class TeacherPredictions:
    """Predictions of a teacher for every readable image."""

    paths: tuple[str, ...]
    probabilities: np.ndarray
    """[images, classes] in float64."""


@dataclass(frozen=True, kw_only=True)
class RoundLabels:
    """The labels of one round, as written to its files."""

    predictions: TeacherPredictions
    pseudo: PseudoLabels
    labelled_copies: int
    pseudo_copies: int
    num_labelled: int
    """Labelled training images, each counted once."""

    @property
    def num_seen(self) -> int:
        """Return the pseudo-labelled images of an epoch, copies included."""
        return int(self.pseudo.repeats.sum()) * self.pseudo_copies

    @property
    def ratio(self) -> float:
        """Return the ratio of pseudo-labelled to labelled images in an epoch."""
        return self.num_seen / (self.num_labelled * self.labelled_copies)


def list_unlabeled(labelled: Dataset, unlabelled: str, file: Path) -> UnlabeledSet:
    """List the unlabelled images, once: a later call reads the list from `file`.

    Every image is decoded. An exact copy of a labelled one is left out: its label is
    known, and an image of val or test must not be learned from.
    """
    root = Path(unlabelled)
    unfiltered = read_unlabelled(root)
    if not file.is_file():
        left_out = _find_excluded(labelled, unfiltered)
        paths = [e.id for e in unfiltered.examples if e.id not in left_out]
        write_json(file, {"images": paths, "left_out": left_out})
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        listed, left_out = set(stored["images"]), dict(stored["left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}): remove it to list the images again."
        ) from error
    examples = tuple(e for e in unfiltered.examples if e.id in listed)
    if not examples:
        reasons = "; ".join(f"{path}: {why}" for path, why in [*left_out.items()][:3])
        raise DataError(
            f"{unlabelled} has no image that a teacher could label: all "
            f"{len(left_out)} are left out ({reasons}). Give images that the labelled "
            "set does not hold."
        )
    return UnlabeledSet(replace(unfiltered, examples=examples), left_out)


def _find_excluded(labelled: Dataset, unlabelled: Dataset) -> dict[str, str]:
    """Map the path of each image that cannot or must not be labelled to the reason."""
    mark = "unlabelled"
    unlabelled_by_id = {f"{mark}:{e.id}": e for e in unlabelled.examples}
    labelled_by_id = {f"labelled:{e.id}": e for e in labelled.examples}
    both = replace(
        labelled,
        examples=(
            *(replace(e, id=id_) for id_, e in labelled_by_id.items()),
            *(replace(e, id=id_, split=mark) for id_, e in unlabelled_by_id.items()),
        ),
        reader=_JointReader(labelled=labelled, unlabelled=unlabelled),
        bad=(),
    )
    audit = vitral.data.check(both, workers=2, max_bad=1.0)
    left_out = {
        unlabelled_by_id[file.path].id: f"unreadable: {file.reason}"
        for file in audit.bad
        if file.path in unlabelled_by_id
    }
    for copies in audit.leaks:
        if mark not in copies.splits:
            continue
        original = next(
            labelled_by_id[id_] for id_ in copies.ids if id_ in labelled_by_id
        )
        split = original.split or "the labelled set"
        for id_ in copies.ids:
            if id_ in unlabelled_by_id:
                reason = f"copy of {original.id} ({split})"
                left_out[unlabelled_by_id[id_].id] = reason
    return left_out


@dataclass(frozen=True, kw_only=True)
class _JointReader:
    """Read an example from the data set that its id names."""

    labelled: Dataset
    unlabelled: Dataset

    def __call__(self, example: Example) -> vitral.data.DecodedImage:
        name, _, id_ = example.id.partition(":")
        return getattr(self, name).decode(replace(example, id=id_))


def predict_unlabeled(
    run: Run, images: Dataset, device: torch.device, *, workers: int, temperature: float
) -> TeacherPredictions:
    """Predict all images with the views and precision of the teacher's evaluation.

    Args:
        temperature: divisor of the logits.
    """
    run.model.to(device)
    loader = split_loader(
        images,
        "",
        run.preprocess,
        batch_size=run.preprocess.batch_size(),
        workers=workers,
    )
    run.model.eval()
    paths: list[str] = []
    logits: list[np.ndarray] = []
    for batch in loader.epoch(0):
        image = batch.image.to(device)
        outputs = predict_outputs(run.model, image, run.inference_spec)
        logits.append(outputs.cpu().numpy().astype(np.float64))
        paths += batch.id
    return TeacherPredictions(
        tuple(paths), softmax(np.concatenate(logits) / temperature)
    )


def repeat_factors(num_labelled: int, num_pseudo: int, ratio: float) -> tuple[int, int]:
    """Return the copies of each labelled and each pseudo-labelled image in an epoch.

    They are the integers, one of them 1, that come nearest to `ratio` pseudo-labelled
    images for each labelled one.
    """
    factor = num_pseudo / (ratio * num_labelled)
    if factor >= 1:
        return round(factor), 1
    return 1, round(1 / factor)


def write_labels(
    folder: Path,
    labels: RoundLabels,
    classes: tuple[str, ...],
    *,
    metadata: PseudoData,
    left_out: Mapping[str, str],
) -> None:
    """Write pseudo.jsonl, answers.csv and, last, data.json."""
    write_atomic(folder / TABLE, _format_pseudo_rows(labels, classes))
    write_atomic(folder / "answers.csv", _format_answers(labels, classes, left_out))
    write_json(folder / DATA_FILE, asdict(metadata))


def _format_pseudo_rows(labels: RoundLabels, classes: tuple[str, ...]) -> str:
    lines = []
    pseudo = labels.pseudo
    columns = (pseudo.chosen, pseudo.repeats, pseudo.targets)
    for row, copies, target in zip(*(c.tolist() for c in columns), strict=True):
        probabilities = labels.predictions.probabilities[row]
        target_by_class = {
            name: round(probability, 7)
            for name, probability in zip(classes, target, strict=True)
            if probability >= MIN_TARGET_SHARE
        }
        lines.append(
            json.dumps(
                {
                    "path": labels.predictions.paths[row],
                    "label": classes[int(probabilities.argmax())],
                    "confidence": round(float(probabilities.max()), 6),
                    "copies": copies,
                    "target": target_by_class,
                },
                ensure_ascii=False,
            )
        )
    return "".join(f"{line}\n" for line in lines)


def _format_answers(
    labels: RoundLabels, classes: tuple[str, ...], left_out: Mapping[str, str]
) -> str:
    """Format one row for each unlabelled image, with the reason if it is not used."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    chosen = labels.pseudo.chosen.tolist()
    copies = dict(zip(chosen, labels.pseudo.repeats.tolist(), strict=True))
    for row, path in enumerate(labels.predictions.paths):
        probabilities = labels.predictions.probabilities[row]
        count = copies.get(row, 0)
        why = "" if count else "not sure enough, or too many of its class"
        label = classes[int(probabilities.argmax())]
        cells = [escape_cell(path), escape_cell(label)]
        writer.writerow([*cells, f"{probabilities.max():.6f}", count, why])
    for path, reason in left_out.items():
        writer.writerow([escape_cell(path), "", "", 0, escape_cell(reason)])
    return text.getvalue()
