"""Load the model of an export with its metadata, and open images to compare on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import vitral.data
import vitral.weights
from vitral.data import Dataset, Example, Preprocess
from vitral.errors import ConfigError, DataError, WeightsError
from vitral.models import VisionModel
from vitral.tasks import Labels, Task, find_task
from vitral.weights import ExportedModel, is_exported
from vitral.workflows.dataset import open_run_data
from vitral.workflows.run import Run

EXPORTED_KEYS = ("eval_views", "problem_type")
"""Keys of a run's extra that go into the file, beside those of its task."""


@dataclass(frozen=True, kw_only=True)
class ExportSubject:
    """A model in eval mode and float32, with its metadata."""

    model: VisionModel
    preprocess: Preprocess
    classes: tuple[str, ...]
    extra: dict[str, Any]
    task: Task
    labels: Labels
    """Outputs of the model, in order."""
    run: Run | None
    """Run of the model; None for a model without one."""
    display_name: str
    """Path or class name, for messages."""


def load_subject(
    model: Run | VisionModel | str | Path, preprocess: Preprocess | None = None
) -> ExportSubject:
    """Load the model to export; one without a run needs `preprocess`."""
    if isinstance(model, str | Path):
        if is_exported(model):
            raise WeightsError(
                f"{model} is an exported model already: export the run that it came "
                "from."
            )
        source: Run | VisionModel | vitral.weights.Loaded = _open_model(Path(model))
    else:
        source = model
    if isinstance(source, Run):
        return _validate(
            ExportSubject(
                model=source.model,
                preprocess=source.preprocess,
                classes=source.classes,
                extra=_exported_extra(source),
                task=source.task,
                labels=source.labels,
                run=source,
                display_name=str(source.path),
            )
        )
    extra: dict[str, Any] = {}
    if isinstance(source, vitral.weights.Loaded):
        # By name: mypy takes a Loaded for a tuple of anything.
        extra = {k: source.extra[k] for k in EXPORTED_KEYS if k in source.extra}
        preprocess, source = source.preprocess, source.model
    if preprocess is None:
        raise ConfigError(
            "A model by itself does not say how it wants its images: give "
            "`preprocess`, or the run that it is of."
        )
    task = find_task(extra, source.config.num_classes)
    names = tuple(str(i) for i in range(source.config.num_classes))
    return _validate(
        ExportSubject(
            model=source,
            preprocess=preprocess,
            classes=(),
            extra={"task": task.name, **extra},
            task=task,
            labels=task.load_labels(names, extra),
            run=None,
            display_name=f"a {type(source).__name__}",
        )
    )


def open_examples(subject: ExportSubject, data: str, limit: int) -> tuple[Dataset, str]:
    """Return at most `limit` images of `data`, or of the run's own, and their split."""
    if data:
        dataset = vitral.data.open(
            data,
            val=0.0,
            test=0.0,
            kind=subject.preprocess.kind,
            labels="optional",
        )
    elif subject.run is None or not _has_run(subject.run):
        raise ConfigError(
            f"{subject.display_name} has no run with images to compare the exported "
            "file on, "
            "and nothing is exported unmeasured: give some with `data=DATA`."
        )
    else:
        try:
            dataset = open_run_data(subject.run)
        except (DataError, ConfigError) as error:
            raise DataError(
                f"The run's data cannot be opened ({error}) and nothing is exported "
                "unmeasured: give other images with `data=DATA`."
            ) from error
    splits = list(dataset.counts())
    preferred = (name for name in ("val", "test", "train") if name in splits)
    split = next(preferred, splits[0])
    examples = take_evenly(dataset.select(split), limit)
    return replace(dataset, examples=examples), split


def take_evenly(examples: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    """Return at most `limit` examples, evenly spaced from the first to the last."""
    if len(examples) <= limit:
        return examples
    step = len(examples) / limit
    return tuple(examples[int(index * step)] for index in range(limit))


def _open_model(path: Path) -> Any:
    folders = (path, path / "model")
    if any((folder / "config.json").is_file() for folder in folders):
        try:
            return Run(path)
        except WeightsError:
            if (path / "model").is_dir():
                raise
    return vitral.weights.load(path, dtype=torch.float32)


def _validate(subject: ExportSubject) -> ExportSubject:
    model = subject.model
    if isinstance(model, ExportedModel):
        raise WeightsError(
            f"{subject.display_name} is an exported model already: export the run that "
            "it "
            "came from."
        )
    if model.config.num_classes == 0:
        raise ConfigError(
            f"{subject.display_name} has no head and answers no classes: fine-tune it "
            "with "
            "`vitral train DATA --weights ...` and export that run."
        )
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise ConfigError(
            f"{subject.display_name} has weights that are not float32: convert it "
            "first with "
            "`model.float()`."
        )
    return replace(subject, model=model.to("cpu").eval())


def _has_run(run: Run) -> bool:
    return (run.path / "config.json").is_file() and (run.path / "model").is_dir()


def _exported_extra(run: Run) -> dict[str, Any]:
    """Return what changes answers, with what was fitted on val."""
    metadata, task = run.metadata, {"task": run.task.name, **run.labels.extra()}
    keys = (*EXPORTED_KEYS, *run.task.metadata_keys)
    return task | {key: metadata[key] for key in keys if key in metadata}
