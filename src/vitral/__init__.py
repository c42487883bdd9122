"""vitral: Vision Transformers from a folder of images to a measured, reported model.

`import vitral as vt` is quick: each name below is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vitral.version import __version__

_WHERE = {
    "ConfigError": "vitral.errors",
    "DataError": "vitral.errors",
    "Run": "vitral.workflows",
    "Runtime": "vitral.workflows.runtime",
    "TrainConfig": "vitral.workflows",
    "VitralError": "vitral.errors",
    "WeightsError": "vitral.errors",
    "convert": "vitral.weights",
    "create": "vitral.models",
    "explain": "vitral.weights",
    "features": "vitral.workflows.features",
    "fewshot": "vitral.evaluation",
    "knn": "vitral.evaluation",
    "linear": "vitral.evaluation",
    "load": "vitral.weights",
    "names": "vitral.models",
    "predict_files": "vitral.workflows",
    "save": "vitral.weights",
    "self_train": "vitral.workflows",
    "train": "vitral.workflows.train",
    "transfer": "vitral.workflows.transfer",
}
"""Public names and the room that each comes from."""

_ROOMS = (
    "data",
    "evaluation",
    "export",
    "inspection",
    "models",
    "objectives",
    "plots",
    "recipes",
    "weights",
)

if TYPE_CHECKING:
    from vitral import (
        data,
        evaluation,
        export,
        inspection,
        models,
        objectives,
        plots,
        recipes,
        weights,
    )
    from vitral.errors import ConfigError, DataError, VitralError, WeightsError
    from vitral.evaluation.probes import fewshot, knn, linear
    from vitral.models import create, names
    from vitral.weights import explain, save
    from vitral.weights.convert import convert
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
    "objectives",
    "open",
    "plots",
    "predict_files",
    "recipes",
    "save",
    "self_train",
    "train",
    "transfer",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "open":
        return importlib.import_module("vitral.workflows").open_run
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"vitral.{name}")
    raise AttributeError(f"module 'vitral' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
