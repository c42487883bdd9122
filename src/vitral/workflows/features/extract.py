"""Frozen features of a whole data set, for few-shot, linear and k-NN evaluation."""

import logging
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

import vitral.data
import vitral.weights
from vitral.data import Dataset, Preprocess
from vitral.errors import ConfigError, DataError
from vitral.models import VisionModel
from vitral.workflows.dataset import open_split_data
from vitral.workflows.features.cache import (
    ExtractedFeatures,
    cached_features,
    extract_features,
    log_skipped,
    make_loader,
)
from vitral.workflows.inputs import InputKind, input_kind, require_images, with_sampling
from vitral.workflows.run import Run, open_run
from vitral.workflows.runtime import pick_device

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
    """What feeds the head of `model`, for every image that can be decoded; float32.

    Args:
        data: a data set, or what `vitral.data.open` takes.
        split: one split of it; empty for all.
        cache: a folder that keeps the features: the same weights, pre-processing and
            files are not run again. None keeps nothing.

    Raises:
        ConfigError: there is no such split.
        DataError: none of the images can be decoded.
    """
    kind = input_kind(model.config)
    dataset = data if isinstance(data, Dataset) else vitral.data.open(data, kind=kind)
    require_images(dataset, kind)
    if cache is None:
        loader = make_loader(dataset, split, preprocess, batch_size, workers)
        found = log_skipped(extract_features(model, loader), dataset, split)
    else:
        found = cached_features(
            model,
            preprocess,
            dataset,
            split,
            cache,
            batch_size=batch_size,
            workers=workers,
        )
    return FeatureSet(found.x, found.y)


class SplitFeatures(NamedTuple):
    """Frozen features of the splits of a data set."""

    train: ExtractedFeatures
    test: ExtractedFeatures
    classes: tuple[str, ...]
    """Those of the data; a label is an index into them."""
    dev: ExtractedFeatures | None
    """The features of val; None without one, or where val is the test."""


def extract_splits(
    weights: str | Path | Run,
    data: str | Path | Dataset = "",
    *,
    folder: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 0,
) -> SplitFeatures:
    """Features of train, val and test, computed once and kept; see `cached_features`.

    Args:
        weights: a run, its folder, or what `vitral.weights.load` takes.
        data: empty for the data of a run. A run's own data keeps the run's split,
            since the model has seen the images of its train; other data gets the
            split of `vitral.data.open`.
        folder: where features are kept; None for the user's cache.

    Raises:
        ConfigError: no data was given with weights that are not a run, or the data
            has nothing to test on.
        DataError: the images have several labels each, or none can be decoded.
        WeightsError: the weights are missing, corrupt or refused.
    """
    opened = as_run(weights)
    dataset = dataset_for(opened or weights, data)
    held_out = held_out_split(dataset)
    model, preprocess = _resolve_model(weights, opened)
    model.to(pick_device(device))

    def of(split: str) -> ExtractedFeatures:
        return cached_features(
            model,
            preprocess,
            dataset,
            split,
            folder,
            batch_size=batch_size,
            workers=workers,
        )

    if held_out == "val":
        logger.info(f"{dataset.name} has no test split: val is the test.")
    return SplitFeatures(
        train=of("train"),
        test=of(held_out),
        classes=dataset.classes,
        dev=of("val") if held_out == "test" and dataset.select("val") else None,
    )


def as_run(weights: str | Path | Run) -> Run | None:
    """The run, where `weights` is one with its settings; None for weights alone."""
    if isinstance(weights, Run):
        return weights if _is_run(weights.path) else None
    return open_run(weights) if _is_run(Path(weights)) else None


def held_out_split(dataset: Dataset) -> str:
    """The split to be measured: test, else val.

    Raises:
        ConfigError: there is neither, or no train.
        DataError: the images have several labels each.
    """
    if dataset.multi_label:
        raise DataError(
            f"The images of {dataset.name} have several labels each, and weights are "
            "evaluated with one class an image. Give a data set with one label each."
        )
    there = dataset.counts()
    held_out = next((name for name in ("test", "val") if name in there), "")
    if "train" not in there or not held_out:
        raise ConfigError(
            f"{dataset.name} has the splits {', '.join(there)}: evaluating weights "
            "needs train, and test or val. Add one, or let the split be made by hash."
        )
    return held_out


def _is_run(path: Path) -> bool:
    return all((path / name).is_file() for name in ("config.json", "model/config.json"))


def dataset_for(weights: str | Path | Run, data: str | Path | Dataset) -> Dataset:
    """The data set with the split that `weights` are evaluated on; see `features_of`.

    Raises:
        ConfigError: no data was given with weights that are not a run.
        DataError: it is unusable.
    """
    if isinstance(data, Dataset):
        return data
    run = as_run(weights)
    if run is None:
        if not str(data):
            where = weights.path if isinstance(weights, Run) else weights
            raise ConfigError(
                f"{where} is not a run and has no data of its own: name the data set "
                "to evaluate on."
            )
        where = weights.path if isinstance(weights, Run) else weights
        kind = input_kind(vitral.weights.read(where).config)
        return _check_kind(vitral.data.open(data, kind=kind), kind)
    kind = input_kind(run.model.config)
    own = run.config.data
    if not str(data) or str(data) == own or Path(data).resolve() == Path(own).resolve():
        return open_split_data(run.config, run.path / "split.csv", kind)
    return _check_kind(vitral.data.open(data, kind=kind), kind)


def _check_kind(dataset: Dataset, kind: InputKind) -> Dataset:
    require_images(dataset, kind)
    return dataset


def _resolve_model(
    weights: str | Path | Run, run: Run | None
) -> tuple[VisionModel, Preprocess]:
    run = weights if isinstance(weights, Run) else run
    if run is not None:
        return run.model, run.preprocess
    assert not isinstance(weights, Run)
    loaded = vitral.weights.load(weights)
    return loaded.model, with_sampling(loaded.preprocess, loaded.model.config, {})
