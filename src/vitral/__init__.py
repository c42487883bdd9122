"""vitral: Vision Transformers from a folder of images to a measured, reported model.

`import vitral as vt` is quick: each name below is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vitral.lazy import lazy_getattr
from vitral.version import __version__

_load = lazy_getattr(
    "vitral",
    {
        "vitral.errors": "ConfigError DataError VitralError WeightsError",
        "vitral.evaluation": "fewshot knn linear",
        "vitral.models": "names",
        "vitral.weights": "convert create explain load save",
        "vitral.workflows": "Run TrainConfig predict_files self_train",
        "vitral.workflows.features": "features",
        "vitral.workflows.runtime": "Runtime",
        "vitral.workflows.train": "train",
        "vitral.workflows.transfer": "transfer",
    },
)
_ROOMS = (
    "data",
    "evaluation",
    "export",
    "inspection",
    "models",
    "plots",
    "recipes",
    "tasks",
    "weights",
)

if TYPE_CHECKING:
    from vitral import (
        data,
        evaluation,
        export,
        inspection,
        models,
        plots,
        recipes,
        tasks,
        weights,
    )
    from vitral.errors import ConfigError, DataError, VitralError, WeightsError
    from vitral.evaluation.probes import fewshot, knn, linear
    from vitral.models import names
    from vitral.weights import explain, save
    from vitral.weights.convert import convert
    from vitral.weights.create import create
    from vitral.weights.load import load
    from vitral.workflows import Run, TrainConfig, predict_files
    from vitral.workflows import open_run as open  # noqa: A004
    from vitral.workflows.features.extract import features
    from vitral.workflows.runtime import Runtime
    from vitral.workflows.self_training.self_train import self_train
    from vitral.workflows.train.train import train
    from vitral.workflows.transfer.transfer import transfer

__all__ = [
    "ConfigError",
    "DataError",
    "Run",
    "Runtime",
    "TrainConfig",
    "VitralError",
    "WeightsError",
    "__version__",
    "convert",
    "create",
    "data",
    "evaluation",
    "explain",
    "export",
    "features",
    "fewshot",
    "inspection",
    "knn",
    "linear",
    "load",
    "models",
    "names",
    "open",
    "plots",
    "predict_files",
    "recipes",
    "save",
    "self_train",
    "tasks",
    "train",
    "transfer",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "open":
        return importlib.import_module("vitral.workflows").open_run
    if name in _ROOMS:
        return importlib.import_module(f"vitral.{name}")
    return _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)
