"""The data set of a run: open it, split it, audit it, describe it."""

import dataclasses
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import vitral.data
import vitral.models
import vitral.weights
from vitral.data import Audit, BadFile, Dataset, InputKind, input_kind
from vitral.data.split import apply, assign, save
from vitral.tasks import Labels, ObjectiveConfig, choose_task, get_task
from vitral.training.distributed import get_rank
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run

logger = logging.getLogger(__name__)

MAX_FULL_AUDIT_IMAGES = 50_000
"""Images; a larger set is sampled, since decoding it all would delay the first step."""


def run_input_kind(config: TrainConfig) -> InputKind:
    """Return whether the model of a run takes images or clips."""
    if config.model:
        return input_kind(vitral.models.get_config(config.model).input_shape)
    return input_kind(vitral.weights.read(config.weights).config.input_shape)


def open_data(config: TrainConfig, kind: InputKind = "images") -> Dataset:
    """Open the data set of a run, with its splits."""
    source = SplitRequest(
        data=config.data,
        seed=config.seed,
        val=config.val,
        test=config.test,
        group_by=config.group_by,
    )
    return open_for_task(source, config.objective, kind)


OpenKind = Literal["auto", "images", "clips"]
"""As `vitral.data.open` takes it."""


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """A source, and how to split what it does not split itself."""

    data: str
    seed: int = 0
    val: float = 0.0
    test: float = 0.0
    group_by: str = ""


def open_for_task(
    source: SplitRequest, settings: ObjectiveConfig, kind: OpenKind
) -> Dataset:
    """Open a source with the targets that an objective learns.

    Raises:
        DataError: it is unusable, or holds no such targets.
    """
    task = get_task(settings.TASK)
    dataset = task.list_examples(source.data, settings)
    if dataset is None:
        dataset = vitral.data.open(
            source.data,
            seed=source.seed,
            val=source.val,
            test=source.test,
            group_by=source.group_by,
            kind=kind,
            labels="needed" if settings.LABELS else "optional",
            columns=task.columns(settings, vitral.data.describe_source(source.data)),
        )
    else:
        dataset = assign(dataset, seed=source.seed, val=source.val, test=source.test)
    return task.read_labels(dataset, settings)


def log_left_out(dataset: Dataset) -> None:
    """Log the one line on the files of a data set that are no example."""
    line = dataset.left_out_line()
    if line and get_rank() == 0:
        logger.info("%s", line)


def open_other_data(run: Run, data: str) -> Dataset:
    """Open a data set that a run was not trained on, as its task reads it."""
    return open_for_task(SplitRequest(data=data), run.objective, run.preprocess.kind)


def describe_labels(dataset: Dataset, settings: ObjectiveConfig, data: str) -> str:
    """Return a task and its labels in a few words, and the other tasks that fit.

    Args:
        data: source of the data set, as `vitral.data.open` takes it.
    """
    task = get_task(settings.TASK)
    line = f"{task.name}, {task.describe(task.labels_of(dataset))}"
    choice = choose_task(vitral.data.describe_source(data))
    fitting = () if choice is None else (choice.task.name, *choice.others)
    others = [f"`--task {name}`" for name in fitting if name != task.name]
    return f"{line}; the data also fits {' and '.join(others)}" if others else line


def open_split_data(
    config: TrainConfig, split_file: Path, kind: InputKind = "images"
) -> Dataset:
    """Open the data set of a run with the splits that the run kept."""
    return apply_split(open_data(config, kind), config, split_file)


def apply_split(dataset: Dataset, config: TrainConfig, split_file: Path) -> Dataset:
    """Return the data set with the splits of a file; unchanged if there is none."""
    if not split_file.is_file():
        return dataset
    return apply(
        dataset, split_file, seed=config.seed, val=config.val, test=config.test
    )


def open_run_data(run: Run, objective: ObjectiveConfig | None = None) -> Dataset:
    """Open the data set that a run was trained on, with the run's splits.

    Args:
        objective: settings of what is learned from it; None: what the run learned.
    """
    config = run.config
    if objective is not None:
        config = replace(config, objective=objective)
    return open_split_data(config, run.path / "split.csv", run.preprocess.kind)


def audit_dataset(
    dataset: Dataset, split_file: Path, workers: int, max_bad: float
) -> Audit:
    """Decode every image once, and save the split unless an earlier start did."""
    full = len(dataset.examples) <= MAX_FULL_AUDIT_IMAGES
    audit = vitral.data.check(
        dataset, workers=max(workers, 2), full=full, max_bad=max_bad
    )
    if not split_file.is_file():
        save(dataset, split_file)
    return audit


def describe_data(
    audit: Audit, labels: Labels, changes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the content of data.json.

    Args:
        changes: sentences on files that changed while the run was stopped.
    """
    dataset = audit.dataset
    leaks = [
        f"the same picture is in {' and '.join(leak.splits)}: {', '.join(leak.ids[:3])}"
        for leak in audit.leaks
    ]
    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "root": str(dataset.root),
        "classes": list(dataset.classes),
        **labels.extra(),
        "sizes": dataset.sizes(),
        "counts": dataset.counts(),
        **dataset.label_counts(),
        "median_size": list(audit.median_size),
        "bad": [
            {"path": file.path, "reason": file.reason, "split": file.split}
            for file in audit.bad
        ],
        "ignored": [dataclasses.asdict(file) for file in dataset.ignored],
        "notes": [*dataset.notes, *leaks, *changes],
        "changes": list(changes),
        "fingerprint": dataset.fingerprint(),
    }


def bad_files_in(bad: tuple[BadFile, ...], split: str) -> list[BadFile]:
    return [file for file in bad if file.split == split]
