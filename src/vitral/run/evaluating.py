"""Evaluating a trained model on a data set, its own or another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import vitral.data
from vitral.data import BadFile, DataSet, Preprocess
from vitral.errors import ConfigError, DataError
from vitral.evaluation import Classification, MultiLabel
from vitral.run.clips import evaluation_batch, kind_for, refuse_clips, with_views
from vitral.run.environment import pick_device
from vitral.run.folder import Run
from vitral.run.scoring import measure, score, split_loader, write_result
from vitral.run.setup import bad_of, open_split_data


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A result and where its files are."""

    split: str
    result: Classification | MultiLabel
    bad: tuple[BadFile, ...]
    folder: Path

    def table(self) -> list[str]:
        """A line a class: support, recall with its interval, precision."""
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


def evaluate(
    run: Run,
    *,
    data: str = "",
    split: str = "",
    views: str = "",
    bad_files: str = "wrong",
    device: str = "auto",
    out: Path | None = None,
) -> Measured:
    """Measure `run` and write the result's files.

    Args:
        data: a data set; empty for the run's own, with the run's own split.
        split: empty for test, else val, else everything.
        views: of clips, such as `2x3`: two choices of frames by three crops; empty for
            the run's own.
        bad_files: `wrong` counts unreadable files as wrong answers, `refuse` stops.
        out: folder for the files; None for predictions/ in the run, or evaluations/
            where `data` or `views` is given.

    Raises:
        DataError: the data has a class that the model does not know, or `bad_files`
            is `refuse` and a file is unreadable.
        ConfigError: there is no such split.
    """
    kind = kind_for(run.model.config)
    preprocess = with_views(run.preprocess, views)
    if data:
        dataset = vitral.data.open(data, val=0.0, test=0.0, kind=kind)
        refuse_clips(dataset, kind)
    else:
        dataset = open_split_data(run.config, run.path / "split.csv", kind)
    dataset = _in_model_order(run, dataset)
    there = list(dataset.counts())
    if not split:
        split = next((name for name in ("test", "val") if name in there), there[0])
    if split not in there:
        raise ConfigError(
            f"The data has no split `{split}`: it has {', '.join(there)}."
        )
    found = vitral.data.check(dataset, workers=2, max_bad=1.0)
    bad = bad_of(found.bad, split)
    if bad and bad_files == "refuse":
        raise DataError(
            f"{len(bad)} files of {split} cannot be read, first {bad[0].path}: "
            f"{bad[0].reason}. Repair them, or count them as wrong with "
            "`--bad-files wrong`."
        )
    name, folder = split, run.path / "predictions"
    if data or views:
        # Not among the run's own results, which the report and the card read.
        words = (Path(data).stem if data else "", split, views)
        name, folder = "-".join(filter(None, words)), run.path / "evaluations"
    folder = out or folder
    result = measure_split(
        run, found.dataset, split, bad, pick_device(device), folder, name, preprocess
    )
    return Measured(split=name, result=result, bad=tuple(bad), folder=folder)


def measure_split(
    run: Run,
    dataset: DataSet,
    split: str,
    bad: Sequence[BadFile],
    device: torch.device,
    folder: Path,
    name: str,
    preprocess: Preprocess | None = None,
) -> Classification | MultiLabel:
    """Run the model over a split; write <name>.json and <name>.csv into `folder`.

    Args:
        preprocess: None for the run's own.
    """
    run.model.to(device)
    preprocess = preprocess or run.preprocess
    loader = split_loader(
        dataset,
        split,
        preprocess,
        batch_size=evaluation_batch(preprocess),
    )
    scores = score(
        run.model,
        loader.epoch(0),
        device=device,
        views=run.extra.get("eval_views", "one"),
        bf16=run.extra.get("precision") == "bf16",
        multi_label=run.multi_label,
    )
    result = measure(scores, run.classes, bad, multi_label=run.multi_label)
    write_result(folder, name, scores, result, bad)
    return result


def _in_model_order(run: Run, dataset: DataSet) -> DataSet:
    """The data set with the model's class map: classes are matched by name."""
    unknown = [name for name in dataset.classes if name not in run.classes]
    if unknown:
        raise DataError(
            f"The data has the class {unknown[0]}, which the model does not know: it "
            f"knows {', '.join(run.classes)}. Rename the folder, or remove it."
        )
    if dataset.classes == run.classes:
        return dataset
    place = {name: run.classes.index(name) for name in dataset.classes}

    def moved(labels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(place[dataset.classes[label]] for label in labels)

    examples = tuple(
        replace(example, label=moved(example.label), target=None)
        for example in dataset.examples
    )
    bad = tuple(replace(file, label=moved(file.label)) for file in dataset.bad)
    return replace(dataset, classes=run.classes, examples=examples, bad=bad)
