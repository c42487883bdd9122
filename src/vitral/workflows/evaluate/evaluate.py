"""Evaluate a trained model on its own data or on another data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import vitral.data
from vitral.atomic_io import write_json
from vitral.data import BadFile, Dataset, Preprocess, split_loader
from vitral.data.audit import require_few_unread
from vitral.data.split import held_out
from vitral.errors import ConfigError, DataError
from vitral.tasks import Result, SecondResult
from vitral.training.distributed import (
    get_local_rank,
    get_rank,
    process_group,
)
from vitral.validation import not_negative
from vitral.workflows.dataset import (
    bad_files_in,
    log_left_out,
    open_other_data,
    open_run_data,
)
from vitral.workflows.inference import measure_split, write_result
from vitral.workflows.run import Run
from vitral.workflows.runtime import pick_model_device


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """A result and the folder of its files."""

    split: str
    result: Result
    bad: tuple[BadFile, ...]
    folder: Path
    real: SecondResult | None = None
    """Result with other labels of the same images; None if none were given."""


def evaluate(
    run: Run,
    *,
    data: str = "",
    split: str = "",
    views: str = "",
    max_bad: float = 1.0,
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
        max_bad: accepted share of unreadable files, above 1 their number; they count
            as wrong predictions.
        out: folder for the files; None for predictions/ in the run, or evaluations/
            if `data` or `views` is given or the run was opened with `merge`.
        real: real.json with the accepted labels of ImageNet's validation images, for
            a second accuracy.

    Raises:
        DataError: the data has a class that the model lacks, more files than `max_bad`
            accepts are unreadable, or `real` does not fit the images.
        ConfigError: there is no such split, or `real` is given for another data set.
    """
    truth = None
    not_negative(max_bad=max_bad)
    if real is not None:
        truth = run.task.read_second_truth(real, data or run.config.data)
    target = pick_model_device(run.model, device)
    with process_group(target):
        if target.type == "cuda" and target.index is None:
            target = torch.device("cuda", get_local_rank())
        run.require_head()
        preprocess = run.preprocess.with_views(views)
        dataset, split, published = _open_split(run, data, split)
        name = _result_name(run, data, split, views)
        # predictions/ holds the run's own results, which the report and the card read.
        is_own = not (data or views) and run.merge is None
        folder = out or (run.path / "predictions" if is_own else run.results_folder)
        result, bad = evaluate_split(
            run,
            dataset,
            split,
            bad=bad_files_in(dataset.bad, split),
            device=target,
            folder=folder,
            name=name,
            preprocess=preprocess,
            max_bad=max_bad,
        )
        second = None
        if truth is not None and get_rank() == 0:
            table = folder / f"{name}.csv"
            second = run.task.second_result(truth, table, published)
            write_json(folder / f"{name}-real.json", second.to_dict())
    return EvaluationResult(
        split=name, result=result, bad=bad, folder=folder, real=second
    )


def _open_split(
    run: Run, data: str, split: str
) -> tuple[Dataset, str, tuple[str, ...]]:
    """Return the data with the model's classes, its split, and its original classes."""
    dataset = open_other_data(run, data) if data else open_run_data(run)
    log_left_out(dataset)
    published = dataset.classes
    dataset = run.task.align(dataset, run.labels)
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
    max_bad: float = 1.0,
) -> tuple[Result, tuple[BadFile, ...]]:
    """Run the model over a split; write <name>.json and the task's files.

    Args:
        bad: files that are known to be unreadable, which the data set does not list.
        name: empty for the split's.
        preprocess: None for the run's own.
        max_bad: accepted share of unreadable files, above 1 their number.

    Returns:
        the result, in which unreadable files count as wrong, and those files.
    """
    run.model.to(device)
    name = name or split
    preprocess = preprocess or run.preprocess
    loader = split_loader(
        dataset, split, preprocess, batch_size=preprocess.batch_size()
    )
    metric = run.task.metric(run.labels)
    spec = run.inference_spec
    unread = measure_split(run.model, loader, metric, device=device, spec=spec)
    bad = (*bad, *unread)
    if len(unread) == len(loader.examples):
        raise DataError(
            f"None of the {len(unread)} images of {split} can be decoded, first "
            f"{unread[0].path}: {unread[0].reason}. Run `vitral data check`."
        )
    require_few_unread(
        [(file.path, file.reason) for file in bad],
        len(loader.examples) + len(bad) - len(unread),
        max_bad,
        found=f"{dataset.kind} of {split} cannot be read",
        advice="Repair or remove them, or raise `max_bad`: they count as wrong.",
    )
    result = metric.result(bad, split=name, val=run.result("val"))
    if get_rank() == 0:
        write_result(folder, name, metric, result, bad=bad)
    return result, bad


def _result_name(run: Run, data: str, split: str, views: str) -> str:
    """Return the stem of the result files: data, split, views and merging."""
    is_name = data in vitral.data.NAMES
    stem = data.replace("/", "-") if is_name else Path(data).stem
    merging = "" if run.merge is None else f"merge{run.merge}"
    if run.merge and run.merge_schedule not in (None, "constant"):
        merging += f"-{run.merge_schedule}"
    return "-".join(filter(None, (stem if data else "", split, views, merging)))
