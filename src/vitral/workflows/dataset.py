"""The data set of a run: open it, split it, audit it, describe it."""

import dataclasses
from pathlib import Path
from typing import Any

import vitral.data
import vitral.models
import vitral.weights
from vitral.data import Audit, BadFile, Dataset, InputKind, input_kind
from vitral.data.split import apply, save
from vitral.errors import DataError
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run

MAX_FULL_AUDIT_IMAGES = 50_000
"""Images; a larger set is sampled, since decoding it all would delay the first step."""


def run_input_kind(config: TrainConfig) -> InputKind:
    """Return whether the model of a run takes images or clips."""
    if config.model:
        return input_kind(vitral.models.get_config(config.model).input_shape)
    return input_kind(vitral.weights.read(config.weights).config.input_shape)


def open_data(config: TrainConfig, kind: InputKind = "images") -> Dataset:
    """Open the data set of a run, with its splits."""
    dataset = vitral.data.open(
        config.data,
        seed=config.seed,
        val=config.val,
        test=config.test,
        group_by=config.group_by,
        kind=kind,
        labels="needed" if config.objective.LABELS else "optional",
    )
    if config.objective.LABELS and len(dataset.classes) < 2:
        raise DataError(
            f"{config.data} has one class, {dataset.classes[0]}: a classifier needs at "
            f"least two. Put the {dataset.kind} of each class into a folder of its own."
        )
    return dataset


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


def open_run_data(run: Run) -> Dataset:
    """Open the data set that a run was trained on, with the run's splits."""
    return open_split_data(run.config, run.path / "split.csv", run.preprocess.kind)


def audit_dataset(dataset: Dataset, split_file: Path, workers: int) -> Audit:
    """Decode every image once, and save the split unless an earlier start did."""
    full = len(dataset.examples) <= MAX_FULL_AUDIT_IMAGES
    audit = vitral.data.check(dataset, workers=max(workers, 2), full=full)
    if not split_file.is_file():
        save(dataset, split_file)
    return audit


def describe_data(audit: Audit) -> dict[str, Any]:
    """Return the content of data.json."""
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
        "multi_label": dataset.multi_label,
        "counts": dataset.counts(),
        "median_size": list(audit.median_size),
        "bad": [
            {"path": file.path, "reason": file.reason, "split": file.split}
            for file in audit.bad
        ],
        "ignored": [dataclasses.asdict(file) for file in dataset.ignored],
        "notes": [*dataset.notes, *leaks],
        "fingerprint": dataset.fingerprint(),
    }


def bad_files_in(bad: tuple[BadFile, ...], split: str) -> list[BadFile]:
    return [file for file in bad if file.split == split]
