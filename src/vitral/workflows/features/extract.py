"""Extract frozen features of a data set, for few-shot, linear and k-NN evaluation."""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

import vitral.data
import vitral.weights
from vitral.data import Dataset, InputKind, Preprocess, input_kind
from vitral.data.split import held_out
from vitral.errors import ConfigError
from vitral.models import VisionModel
from vitral.tasks import ObjectiveConfig, Task, get_task
from vitral.tasks.features import ExtractedFeatures, extract_features
from vitral.workflows.dataset import (
    SplitRequest,
    log_left_out,
    open_for_task,
    open_run_data,
)
from vitral.workflows.features.cache import (
    cached_features,
    log_skipped,
    make_loader,
)
from vitral.workflows.features.image_size import choose_image_size
from vitral.workflows.resolve_task import fitting_objective
from vitral.workflows.run import Run, open_run
from vitral.workflows.runtime import Runtime, pick_device

logger = logging.getLogger(__name__)


class FeatureSet(NamedTuple):
    """Features and labels, in the order of the data set."""

    x: Float[Tensor, "examples dim"]
    y: Int[Tensor, " examples"]


def features(
    model: VisionModel,
    preprocess: Preprocess,
    data: str | Dataset,
    *,
    split: str = "",
    batch_size: int = 32,
    workers: int = 0,
    cache: str | Path | None = None,
) -> FeatureSet:
    """Compute the input of the head of `model` for every readable image, in float32.

    Args:
        data: a data set, or an argument of `vitral.data.open`.
        split: one split of it; empty for all.
        cache: folder of cached features, used again for the same weights, preprocessing
            and files; None for no cache.

    Raises:
        ConfigError: there is no such split.
        DataError: none of the images can be decoded.
    """
    dataset = _open_data(data, preprocess.kind)
    if cache is None:
        loader = make_loader(
            dataset, split, preprocess, batch_size=batch_size, workers=workers
        )
        extracted = log_skipped(extract_features(model, loader), dataset, split)
    else:
        extracted = cached_features(
            model,
            preprocess,
            dataset,
            split,
            folder=cache,
            batch_size=batch_size,
            workers=workers,
        )
    return FeatureSet(extracted.x, extracted.y)


class SplitFeatures(NamedTuple):
    """Frozen features of the splits of a data set."""

    train: ExtractedFeatures
    test: ExtractedFeatures
    classes: tuple[str, ...]
    """Classes of the data; a label is an index into them."""
    dev: ExtractedFeatures | None
    """Features of val; None without val, or if val is the test."""
    task: Task = get_task(ObjectiveConfig.TASK)
    """Task that the probes learn."""
    described: str = ""
    """The labels in a few words."""


def extract_splits(
    weights: str | Path | Run,
    data: str | Path | Dataset = "",
    *,
    objective: ObjectiveConfig | None = None,
    folder: str | Path | None = None,
    runtime: Runtime | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> SplitFeatures:
    """Extract the features of train, val and test with the cache of `cached_features`.

    Args:
        weights: a run, its folder, or an argument of `vitral.weights.load`.
        data: empty for the data of a run. A run's own data keeps the run's split,
            since the model has seen the images of its train; other data gets the
            split of `vitral.data.open`.
        objective: settings of what is learned from the data; None: what it fits.
        folder: folder of the cache; None for the user's.
        image_size: pixels, (height, width) or one number. None: a run's own, and for
            weights what `choose_image_size` says.

    Raises:
        ConfigError: no data was given with weights that are not a run, or the data
            has no split to test on.
        DataError: the images have several labels each, or none can be decoded.
        WeightsError: the weights are missing, corrupt or refused.
    """
    opened = as_run(weights)
    dataset = dataset_for(opened or weights, data, objective)
    task = find_probe_task(opened, dataset, objective)
    measured = held_out_split(dataset, task)
    model, preprocess = _resolve_model(weights, opened, dataset, image_size)
    runtime = runtime or Runtime()
    model.to(pick_device(runtime.device))

    def extract(split: str) -> ExtractedFeatures:
        return cached_features(
            model,
            preprocess,
            dataset,
            split,
            folder=folder,
            workers=runtime.workers,
        )

    if measured == "val":
        logger.info(f"{dataset.name} has no test split: val is the test.")
    return SplitFeatures(
        train=extract("train"),
        test=extract(measured),
        classes=dataset.classes,
        dev=extract("val") if measured == "test" and dataset.select("val") else None,
        task=task,
        described=task.describe(task.labels_of(dataset)),
    )


def find_probe_task(
    run: Run | None, dataset: Dataset, objective: ObjectiveConfig | None
) -> Task:
    """Return the task that probes learn: as asked, else what the targets are of."""
    if objective is not None:
        return get_task(objective.TASK)
    if run is not None and run.task.has_answers and not dataset.classes:
        return run.task
    return get_task(ObjectiveConfig.TASK)


def as_run(weights: str | Path | Run) -> Run | None:
    """Open `weights` as a run with its settings; None for weights alone."""
    if isinstance(weights, Run):
        return weights if _is_run(weights.path) else None
    return open_run(weights) if _is_run(Path(weights)) else None


def held_out_split(dataset: Dataset, task: Task | None = None) -> str:
    """Return the split to be measured: test, else val.

    Raises:
        ConfigError: the data has neither, or no train.
        DataError: the images have several labels each.
    """
    task = task or get_task(ObjectiveConfig.TASK)
    task.require("features", task.labels_of(dataset), dataset.name)
    counts = dataset.counts()
    measured = held_out(counts)
    if "train" not in counts or not measured:
        raise ConfigError(
            f"{dataset.name} has the splits {', '.join(counts)}: evaluating weights "
            "needs train, and test or val. Add one, or let the split be made by hash."
        )
    return measured


def _is_run(path: Path) -> bool:
    return all((path / name).is_file() for name in ("config.json", "model/config.json"))


def dataset_for(
    weights: str | Path | Run,
    data: str | Path | Dataset,
    objective: ObjectiveConfig | None = None,
) -> Dataset:
    """Open the data set that `weights` are evaluated on; see `extract_splits`.

    Raises:
        ConfigError: no data was given with weights that are not a run.
        DataError: it is unusable.
    """
    if isinstance(data, Dataset):
        return data
    run = as_run(weights)
    if run is None:
        path = weights.path if isinstance(weights, Run) else weights
        if not str(data):
            raise ConfigError(
                f"{path} is not a run and has no data of its own: name the data set "
                "to evaluate on."
            )
        kind = input_kind(vitral.weights.read(path).config.input_shape)
    else:
        kind = run.preprocess.kind
        run_data = run.config.data
        is_same = Path(data).resolve() == Path(run_data).resolve()
        if not str(data) or str(data) == run_data or is_same:
            return open_run_data(run, objective)
    settings = objective or fitting_objective(str(data))
    source = SplitRequest(data=str(data), val=0.1, test=0.2)
    dataset = open_for_task(source, settings, kind)
    log_left_out(dataset)
    return dataset


def _open_data(data: str | Path | Dataset, kind: InputKind) -> Dataset:
    dataset = data if isinstance(data, Dataset) else vitral.data.open(data, kind=kind)
    dataset.require_kind(kind)
    return dataset


def resolve_image_size(
    weights: str | Path | Run, dataset: Dataset
) -> int | tuple[int, int] | None:
    """Return the image size at which features are computed; None: the model's own."""
    if isinstance(weights, Run) or as_run(weights) is not None:
        return None
    source = vitral.weights.read(weights)
    return None if source.run_size else choose_image_size(source.config, dataset)


def _resolve_model(
    weights: str | Path | Run,
    run: Run | None,
    dataset: Dataset,
    image_size: int | tuple[int, int] | None,
) -> tuple[VisionModel, Preprocess]:
    run = weights if isinstance(weights, Run) else run
    if run is not None and image_size is None:
        return run.model, run.preprocess
    path = weights.path if isinstance(weights, Run) else weights
    if image_size is None:
        image_size = resolve_image_size(path, dataset)
    loaded = vitral.weights.load(path, image_size=image_size, dtype=torch.float32)
    shape = loaded.model.config.input_shape
    return loaded.model, loaded.preprocess.for_input(shape)
