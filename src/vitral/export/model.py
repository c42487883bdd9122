"""What is exported: a model with all that has to travel with it, and real images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import vitral.data
import vitral.weights
from vitral.data import Dataset, Example, Preprocess
from vitral.errors import ConfigError, DataError, WeightsError
from vitral.models import VisionModel
from vitral.weights import ExportedModel, is_exported
from vitral.workflows.dataset import open_split_data
from vitral.workflows.inputs import input_kind, require_images, with_single_view
from vitral.workflows.run import Run

EXPORTED_EXTRA = ("multi_label", "temperature", "eval_views")
"""What of a run's extra goes into the file: all that changes an answer."""


@dataclass(frozen=True, kw_only=True)
class ExportSubject:
    """A model in eval mode and float32, and what belongs to it."""

    model: VisionModel
    preprocess: Preprocess
    classes: tuple[str, ...]
    extra: dict[str, Any]
    run: Run | None
    """Whose it is; None for a model that was given by itself."""
    display_name: str
    """Its path, or what it is, for messages."""


def load_subject(
    model: Run | VisionModel | str | Path, preprocess: Preprocess | None = None
) -> ExportSubject:
    """What was given to be exported.

    Args:
        model: a run, its path, weights of any layout, or a model.
        preprocess: of a model that is given by itself.

    Raises:
        WeightsError: there are no weights, or it is an exported file already.
        ConfigError: the model has no head, or no pre-processing was given.
    """
    if isinstance(model, str | Path):
        if is_exported(model):
            raise WeightsError(
                f"{model} is an exported model already: export the run that it came "
                "from."
            )
        found: Run | VisionModel | vitral.weights.Loaded = _open_model(Path(model))
    else:
        found = model
    if isinstance(found, Run):
        return _validate(
            ExportSubject(
                model=found.model,
                preprocess=found.preprocess,
                classes=found.classes,
                extra=_exported_extra(found),
                run=found,
                display_name=str(found.path),
            )
        )
    if isinstance(found, vitral.weights.Loaded):
        # By name: mypy takes a Loaded for a tuple of anything.
        preprocess, found = found.preprocess, found.model
    if preprocess is None:
        raise ConfigError(
            "A model by itself does not say how it wants its images: give "
            "`preprocess`, or the run that it is of."
        )
    return _validate(
        ExportSubject(
            model=found,
            preprocess=preprocess,
            classes=(),
            extra={},
            run=None,
            display_name=f"a {type(found).__name__}",
        )
    )


def open_examples(subject: ExportSubject, data: str, limit: int) -> tuple[Dataset, str]:
    """Real images to compare on, and the split that they are from.

    Args:
        data: a data set; empty for the run's own, with the run's own split.
        limit: images at most, taken evenly from the split.

    Raises:
        ConfigError: no data was given and the model has none of its own.
        DataError: the data cannot be opened.
    """
    kind = input_kind(subject.model.config)
    if data:
        dataset = vitral.data.open(
            data, val=0.0, test=0.0, kind=kind, labels="optional"
        )
        require_images(dataset, kind)
    elif subject.run is None or not _has_run(subject.run):
        raise ConfigError(
            f"{subject.display_name} has no run with images to compare the exported "
            "file on, "
            "and nothing is exported unmeasured: give some with `--data DATA`."
        )
    else:
        run = subject.run
        try:
            dataset = open_split_data(run.config, run.path / "split.csv", kind)
        except (DataError, ConfigError) as error:
            raise DataError(
                f"The run's data cannot be opened ({error}) and nothing is exported "
                "unmeasured: give other images with `--data DATA`."
            ) from error
    there = list(dataset.counts())
    split = next((name for name in ("val", "test", "train") if name in there), there[0])
    chosen = take_evenly(dataset.select(split), limit)
    return replace(dataset, examples=chosen), split


def take_evenly(examples: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    """At most `limit` of them, from the first to the last."""
    if len(examples) <= limit:
        return examples
    step = len(examples) / limit
    return tuple(examples[int(index * step)] for index in range(limit))


def single_view(preprocess: Preprocess) -> Preprocess:
    """One view of each clip; images as they are."""
    return with_single_view(preprocess)


def _open_model(path: Path) -> Any:
    folders = (path, path / "model")
    if any((folder / "config.json").is_file() for folder in folders):
        try:
            return Run(path)
        except WeightsError:
            if (path / "model").is_dir():
                raise
    return vitral.weights.load(path)


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
    kept = {key: run.extra[key] for key in EXPORTED_EXTRA if key in run.extra}
    if not run.multi_label and run.temperature != 1.0:
        # An older run has it in its results instead.
        kept["temperature"] = run.temperature
    return kept
