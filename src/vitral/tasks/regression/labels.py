"""Outputs of a regression head: columns of numbers, with their mean and deviation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vitral.data import Dataset, Example
from vitral.errors import ConfigError, DataError, WeightsError
from vitral.json_file import shorten
from vitral.tasks.labels import Labels

MAX_NUMBER = 1e100
"""Largest mean or deviation that is read."""


@dataclass(frozen=True, kw_only=True)
class NumberLabels(Labels):
    """Columns in the order of the outputs; output · std + mean is the number."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def extra(self) -> dict[str, Any]:
        return {"target_mean": list(self.mean), "target_std": list(self.std)}

    def standardize(
        self, values: Float[np.ndarray, "examples columns"]
    ) -> Float[np.ndarray, "examples columns"]:
        """Return numbers in deviations from the mean."""
        return (values - np.array(self.mean)) / np.array(self.std)

    def restore(
        self, outputs: Float[np.ndarray, "examples columns"]
    ) -> Float[np.ndarray, "examples columns"]:
        """Return the numbers that outputs stand for, in float64."""
        return outputs.astype(np.float64) * np.array(self.std) + np.array(self.mean)


def number_labels(labels: Labels) -> NumberLabels:
    """Return labels with statistics: those of a head without any are 0 and 1."""
    if isinstance(labels, NumberLabels):
        return labels
    return load_labels(labels.names, {})


def load_labels(names: tuple[str, ...], extra: Mapping[str, Any]) -> NumberLabels:
    """Read the outputs of a stored model, of ours or of another library.

    Raises:
        ConfigError: there is no mean and deviation for each output.
    """
    mean, std = (0.0,) * len(names), (1.0,) * len(names)
    if "target_mean" in extra:
        mean = _read_numbers("target_mean", extra)
        std = (1.0,) * len(mean)
    if "target_std" in extra:
        std = _read_numbers("target_std", extra)
    if min(std, default=1.0) <= 0:
        raise WeightsError(
            f"The model's `target_std` is {shorten(list(std))}, expected numbers above "
            "0: its config.json was edited. Copy it from where the model was made."
        )
    if len(mean) != len(std) or (names and len(mean) != len(names)):
        raise ConfigError(
            f"The model has {len(names)} outputs, but {len(mean)} `target_mean` and "
            f"{len(std)} `target_std`: its config.json is of another model. Copy both "
            "from where it was made."
        )
    return NumberLabels(names=names, mean=mean, std=std)


def _read_numbers(key: str, extra: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the numbers of a key; empty without it."""
    values = extra.get(key)
    if values is None:
        return ()
    if not isinstance(values, list | tuple) or not all(
        type(value) in (int, float) and abs(value) <= MAX_NUMBER for value in values
    ):
        raise WeightsError(
            f"The model's `{key}` is {shorten(values)}, expected a list of numbers: "
            "its config.json was edited. Copy it from where the model was made."
        )
    return tuple(map(float, values))


def measure_labels(dataset: Dataset, names: tuple[str, ...]) -> NumberLabels:
    """Return the columns with mean and deviation of train, without missing values.

    Raises:
        DataError: a column cannot be learned from train, or a split has no value.
    """
    table = stack_values(dataset.select("train"), len(names))
    for split in ("val", "test"):
        examples = dataset.select(split)
        if examples and not np.isfinite(stack_values(examples, len(names))).any():
            raise DataError(
                f"{split} has {len(examples)} {dataset.kind} and no value of "
                f"{', '.join(names)}: nothing can be measured on it. Fill the cells, "
                f"or leave these rows out."
            )
    statistics = [
        _measure_column(name, values, dataset)
        for name, values in zip(names, table.T, strict=True)
    ]
    mean, std = zip(*statistics, strict=True)
    return NumberLabels(names=names, mean=mean, std=std)


def stack_values(
    examples: tuple[Example, ...], num_columns: int
) -> Float[np.ndarray, "examples columns"]:
    """Return the targets of examples as float64; NaN where one is missing."""
    rows = [example.target for example in examples]
    return np.array(rows, dtype=np.float64).reshape(len(rows), num_columns)


def _measure_column(
    name: str, values: Float[np.ndarray, " examples"], dataset: Dataset
) -> tuple[float, float]:
    present = values[~np.isnan(values)]
    if not len(present):
        raise DataError(
            f"The column {name!r} has no value in train, of {len(values)} "
            f"{dataset.kind}: there is nothing to learn. Fill cells of train, or leave "
            f"the column out of `target`."
        )
    if len(present) == 1:
        raise DataError(
            f"The column {name!r} has a single value in train, {present[0]:g}, and "
            "one number has no deviation to measure errors by. Add rows with others."
        )
    mean, std = float(present.mean()), float(present.std())
    if present.min() == present.max() or not std > 0:
        raise DataError(
            f"The column {name!r} is {present[0]:g} for each of the {len(present)} "
            f"{dataset.kind} of train: a constant cannot be learned. Add rows with "
            "other values, or leave the column out of `target`."
        )
    return mean, std
