"""Evaluate a trained model on its own data or on another data set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import vitral.data
from vitral.atomic_io import write_json
from vitral.data import BadFile, Dataset, Preprocess
from vitral.data.split import held_out
from vitral.errors import ConfigError, DataError
from vitral.tasks.classification import (
    CalibratedMetrics,
    Classification,
    MultiLabel,
    RealAccuracy,
    calibrate,
    fit_temperature,
)
from vitral.tasks.classification.predictions import read_predictions
from vitral.tasks.classification.real import (
    NO_ANSWER,
    accepted_labels,
    read_real,
    real_accuracy,
)
from vitral.training.distributed import (
    broadcast_from_rank_zero,
    get_local_rank,
    get_rank,
    process_group,
)
from vitral.workflows.dataset import bad_files_in, open_run_data
from vitral.workflows.inference import (
    Predictions,
    compute_metrics,
    predict_split,
    split_loader,
    write_result,
)
from vitral.workflows.run import Run
from vitral.workflows.runtime import pick_device


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """A result and the folder of its files."""

    split: str
    result: Classification | MultiLabel
    bad: tuple[BadFile, ...]
    folder: Path
    real: RealAccuracy | None = None
    """Accuracy with ReaL labels; None if none were given."""

    def table(self) -> list[str]:
        """Format one line per class: support, recall with its interval, precision."""
        if not isinstance(self.result, Classification):
            return []
        lines = [
            f"  {'class':20} {'images':>7} {'recall':>8}   95 % interval  precision"
        ]
        for row in self.result.per_class:
            recall = "-" if row.recall is None else f"{100 * row.recall:.1f} %"
            precision = "-" if row.precision is None else f"{100 * row.precision:.1f} %"
            low, high = row.recall_interval
            interval = f"{100 * low:5.1f} to {100 * high:5.1f}"
            lines.append(
                f"  {row.name[:20]:20} {row.support:7} {recall:>8}   {interval:>14}"
                f"  {precision:>9}"
            )
        return lines

    def calibration(self) -> list[str]:
        """Format a line on the temperature; empty without one."""
        result = self.result
        if not isinstance(result, Classification) or result.calibrated is None:
            return []
        metrics = result.calibrated
        same = ", the same images" if metrics.fitted_on == self.split else ""
        return [
            f"temperature {metrics.temperature:.2f}, fitted on {metrics.fitted_n:,} "
            f"images of {metrics.fitted_on}{same}: calibration error "
            f"{result.ece or 0.0:.3f} without, {metrics.ece:.3f} with it"
        ]


def evaluate(
    run: Run,
    *,
    data: str = "",
    split: str = "",
    views: str = "",
    bad_files: str = "wrong",
    device: str = "auto",
    out: Path | None = None,
    real: Path | None = None,
) -> EvaluationResult:
    """Measure `run` on a split and write the result files.

    Under torchrun the ranks divide the images, and all return the same numbers as one
    process does; rank 0 writes.

    Args:
        data: a data set; empty for the run's own, with the run's own split.
        split: empty for test, else val, else all images.
        views: views of a clip, such as `2x3`: two choices of frames by three crops;
            empty for the run's own.
        bad_files: `wrong` counts unreadable files as wrong predictions, `refuse` stops.
        out: folder for the files; None for predictions/ in the run, or evaluations/
            if `data` or `views` is given or the run was opened with `merge`.
        real: real.json with the accepted labels of ImageNet's validation images, for
            a second accuracy.

    Raises:
        DataError: the data has a class that the model lacks, or `bad_files`
            is `refuse` and a file is unreadable, or `real` does not fit the images.
        ConfigError: there is no such split, or `real` is given for another data set.
    """
    accepted = (
        None if real is None else _read_real_labels(real, data or run.config.data)
    )
    target = pick_device(device)
    with process_group(target):
        if target.type == "cuda" and target.index is None:
            target = torch.device("cuda", get_local_rank())
        run.require_head()
        preprocess = run.preprocess.with_views(views)
        dataset, split, published = _open_split(run, data, split)
        # On rank 0 only: the audit decodes every image.
        audit = broadcast_from_rank_zero(
            lambda: vitral.data.check(dataset, workers=2, max_bad=1.0)
        )
        bad = bad_files_in(audit.bad, split)
        if bad and bad_files == "refuse":
            raise DataError(
                f"{len(bad)} files of {split} cannot be read, first {bad[0].path}: "
                f"{bad[0].reason}. Repair them, or count them as wrong with "
                "`--bad-files wrong`."
            )
        name = _result_name(run, data, split, views)
        # predictions/ holds the run's own results, which the report and the card read.
        is_own = not (data or views) and run.merge is None
        folder = out or (run.path / "predictions" if is_own else run.results_folder)
        result = evaluate_split(
            run,
            audit.dataset,
            split,
            bad=bad,
            device=target,
            folder=folder,
            name=name,
            preprocess=preprocess,
        )
        second = None
        if accepted is not None and get_rank() == 0:
            second = _compute_real_accuracy(folder / f"{name}.csv", published, accepted)
            write_json(folder / f"{name}-real.json", second.to_dict())
    return EvaluationResult(
        split=name, result=result, bad=tuple(bad), folder=folder, real=second
    )


def _open_split(
    run: Run, data: str, split: str
) -> tuple[Dataset, str, tuple[str, ...]]:
    """Return the data with the model's classes, its split, and its original classes."""
    if data:
        dataset = vitral.data.open(data, val=0.0, test=0.0, kind=run.preprocess.kind)
    else:
        dataset = open_run_data(run)
    published = dataset.classes
    dataset = _reorder_classes(run, dataset)
    splits = list(dataset.counts())
    if not split:
        split = held_out(splits) or splits[0]
    if split not in splits:
        raise ConfigError(
            f"The data has no split `{split}`: it has {', '.join(splits)}."
        )
    return dataset, split, published


def evaluate_split(
    run: Run,
    dataset: Dataset,
    split: str,
    *,
    bad: Sequence[BadFile],
    device: torch.device,
    folder: Path,
    name: str = "",
    preprocess: Preprocess | None = None,
) -> Classification | MultiLabel:
    """Run the model over a split; write <name>.json and <name>.csv into `folder`.

    Args:
        name: empty for the split's.
        preprocess: None for the run's own.
    """
    run.model.to(device)
    name = name or split
    preprocess = preprocess or run.preprocess
    loader = split_loader(
        dataset, split, preprocess, batch_size=preprocess.batch_size()
    )
    predictions = predict_split(
        run.model, loader, device=device, spec=run.inference_spec
    )
    result = compute_metrics(predictions, run.classes, bad, multi_label=run.multi_label)
    if isinstance(result, Classification):
        result = replace(result, calibrated=_calibrate(run, predictions, name))
    if get_rank() == 0:
        write_result(folder, name, predictions, result, bad=bad)
    return result


def _result_name(run: Run, data: str, split: str, views: str) -> str:
    """Return the stem of the result files: data, split, views and merging."""
    is_name = data in vitral.data.NAMES
    stem = data.replace("/", "-") if is_name else Path(data).stem
    merging = "" if run.merge is None else f"merge{run.merge}"
    if run.merge and run.merge_schedule not in (None, "constant"):
        merging += f"-{run.merge_schedule}"
    return "-".join(filter(None, (stem if data else "", split, views, merging)))


def _read_real_labels(real: Path, data: str) -> tuple[frozenset[int], ...]:
    if data != "imagenet":
        raise ConfigError(
            "`real` holds labels of ImageNet's validation images and goes with the "
            f"data set imagenet alone: got {data}. Leave it out."
        )
    return read_real(real)


def _compute_real_accuracy(
    table: Path, classes: tuple[str, ...], accepted: tuple[frozenset[int], ...]
) -> RealAccuracy:
    """Compute the ReaL accuracy of a table; `classes` are in ImageNet's order."""
    indices = {name: index for index, name in enumerate(classes)}
    rows = read_predictions(table)
    answers = np.array([indices.get(row.predicted, NO_ANSWER) for row in rows])
    return real_accuracy(answers, accepted_labels([row.path for row in rows], accepted))


def _calibrate(
    run: Run, predictions: Predictions, name: str
) -> CalibratedMetrics | None:
    """Calibrate with the temperature of the run's val: fitted on val, else read."""
    if name == "val":
        wrong = predictions.logits.argmax(axis=1) != predictions.labels
        if not wrong.any():
            # Without an error the best temperature is the lowest allowed one.
            return None
        temperature = fit_temperature(predictions.logits, predictions.labels)
        fitted_n = len(predictions.ids)
    else:
        try:
            file = run.path / "predictions" / "val.json"
            stored = json.loads(file.read_text(encoding="utf-8"))["calibrated"]
            temperature = float(stored["temperature"])
            fitted_n = int(stored["fitted_n"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # measured by an older version, or without val
    return calibrate(
        predictions.logits,
        predictions.labels,
        temperature,
        fitted_on="val",
        fitted_n=fitted_n,
    )


def _reorder_classes(run: Run, dataset: Dataset) -> Dataset:
    """Return the data set with the model's class indices, matched by name."""
    unknown = [name for name in dataset.classes if name not in run.classes]
    if unknown:
        raise DataError(
            f"The data has the class {unknown[0]}, which the model does not know: it "
            f"knows {', '.join(run.classes)}. Rename the folder, or remove it."
        )
    if dataset.classes == run.classes:
        return dataset
    new_indices = [run.classes.index(name) for name in dataset.classes]

    def remap(labels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new_indices[label] for label in labels)

    examples = tuple(
        replace(example, label=remap(example.label), target=None)
        for example in dataset.examples
    )
    bad = tuple(replace(file, label=remap(file.label)) for file in dataset.bad)
    return replace(dataset, classes=run.classes, examples=examples, bad=bad)
