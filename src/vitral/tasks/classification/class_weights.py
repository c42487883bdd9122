"""Factors of classes in the loss: one a class, some by name, or from their sizes."""

import math

import numpy as np
from jaxtyping import Float

from vitral.data import Dataset
from vitral.data.dataset import shorten_names
from vitral.data.names import canonical_name
from vitral.errors import ConfigError
from vitral.validation import suggestion

AUTO = "auto"


def validate_class_weights(weights: tuple[float | str, ...]) -> None:
    """Check what can be checked without the classes.

    Raises:
        ConfigError: a factor is not above 0, or numbers, names and `auto` are mixed.
    """
    if weights == (AUTO,):
        return
    named = [weight for weight in weights if isinstance(weight, str)]
    if named and len(named) < len(weights):
        raise ConfigError(
            "`class_weights` must be one number a class, or NAME=NUMBER for some, or "
            f"auto: got {' '.join(map(str, weights))}."
        )
    for index, weight in enumerate(weights):
        if isinstance(weight, str):
            name, value = _split_named(weight)
            where = name
        else:
            value, where = weight, f"class {index}"
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"`class_weights` must be positive finite numbers: {where} has {value}."
            )


def resolve_class_weights(
    weights: tuple[float | str, ...], dataset: Dataset
) -> tuple[float, ...]:
    """Return one factor a class.

    `auto` is scikit-learn's "balanced": the labels of train, divided by the number of
    classes and by those of the class. A class that train lacks has 1, and so has a
    class that is not named.

    Raises:
        ConfigError: a name is no class of the data, or is given twice.
    """
    if weights == (AUTO,):
        counts = _count_labels(dataset)
        present = np.maximum(counts, np.finfo(float).tiny)
        balanced = counts.sum() / (len(counts) * present)
        return tuple(float(w) for w in np.where(counts > 0, balanced, 1.0))
    numbers = tuple(weight for weight in weights if not isinstance(weight, str))
    if numbers:
        return numbers
    factors = dict.fromkeys(dataset.classes, 1.0)
    seen: set[str] = set()
    for weight in weights:
        name, value = _split_named(str(weight))
        if name not in factors:
            raise ConfigError(
                f"`class_weights` names the class {name!r}, which the data has not."
                f"{suggestion(name, dataset.classes)} It has "
                f"{shorten_names(dataset.classes)}."
            )
        if name in seen:
            raise ConfigError(f"`class_weights` names {name!r} twice: keep one.")
        seen.add(name)
        factors[name] = value
    return tuple(factors.values())


def describe_class_weights(weights: tuple[float, ...], classes: tuple[str, ...]) -> str:
    """Return factors with their classes, in a line."""
    pairs = [f"{c} {w:.4g}" for c, w in zip(classes, weights, strict=True)]
    return f"class weights: {shorten_names(pairs)}"


def _split_named(text: str) -> tuple[str, float]:
    name, separator, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        separator = ""
    if not separator or not name:
        raise ConfigError(
            "`class_weights` must be one number a class, or NAME=NUMBER for some, or "
            f"auto: got {text!r}."
        )
    return canonical_name(name), value


def _count_labels(dataset: Dataset) -> Float[np.ndarray, "classes"]:
    """Return how often train has each class; a soft label counts by its shares."""
    counts = np.zeros(len(dataset.classes))
    for example in dataset.select("train"):
        if example.target is not None:
            counts += np.asarray(example.target, dtype=float)
        else:
            counts[list(example.label)] += 1
    return counts
