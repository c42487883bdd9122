"""Accuracy on ImageNet's reassessed labels, ReaL (Beyer et al., arXiv 2006.07159).

Any accepted label is correct. An image without accepted labels is left out.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vitral.errors import ConfigError, DataError
from vitral.evaluation.intervals import Interval, format_percent, wilson
from vitral.tasks.classification.predictions import read_predictions
from vitral.tasks.result import SecondResult

_FILE = re.compile(r"ILSVRC2012_val_(\d{8})\.")
NO_ANSWER = -1
"""Class index for an undecodable image or an unknown class."""


@dataclass(frozen=True, kw_only=True)
class RealAccuracy(SecondResult):
    """Share of images whose answer is among the accepted labels."""

    KIND = "real"

    n: int
    """Images with at least one accepted label."""
    left_out: int
    """Images without accepted labels."""
    accuracy: float
    interval: Interval
    """Wilson's, 95 %."""

    def sentence(self) -> str:
        """Return the accuracy with its interval."""
        return (
            f"ReaL: {100 * self.accuracy:.1f} % of {self.n:,} images right (95 % "
            f"interval {format_percent(self.interval)}; {self.left_out:,} without an "
            "accepted label left out)"
        )


def real_accuracy(
    answers: Int[np.ndarray, " examples"], accepted: Sequence[frozenset[int]]
) -> RealAccuracy:
    """Score answers against sets of accepted labels.

    Args:
        answers: the class with the highest score; NO_ANSWER is wrong.
        accepted: labels of each example, empty where none was accepted.

    Raises:
        DataError: the two differ in length, or no example has a label.
    """
    if len(answers) != len(accepted):
        raise DataError(
            f"{len(answers)} answers do not fit {len(accepted)} sets of accepted "
            "labels. Give both for the same images."
        )
    right = [
        int(answer) in labels
        for answer, labels in zip(answers, accepted, strict=True)
        if labels
    ]
    if not right:
        raise DataError(
            f"None of the {len(accepted)} images has an accepted label. Give the "
            "images that the labels are about."
        )
    return RealAccuracy(
        n=len(right),
        left_out=len(accepted) - len(right),
        accuracy=sum(right) / len(right),
        interval=wilson(sum(right), len(right)),
    )


def read_real(path: Path) -> tuple[frozenset[int], ...]:
    """Read real.json: accepted labels of each validation image, in file order.

    Labels are indices of the 1,000 classes sorted by WordNet id, as torchvision's.

    Raises:
        DataError: the file is missing or is something else.
    """
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. ReaL's labels are real.json of "
            "https://github.com/google-research/reassessed-imagenet."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Fetch it again.") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} must hold a list with a list for each image.")
    for index, row in enumerate(rows, start=1):
        # A bool is an int to Python.
        if not isinstance(row, list) or not all(type(label) is int for label in row):
            raise DataError(
                f"{path}: the entry of image {index} must be a list of class numbers, "
                f"got {str(row)[:60]}. Fetch the file again."
            )
    return tuple(frozenset(row) for row in rows)


def accepted_labels(
    paths: Sequence[str], real: Sequence[frozenset[int]]
) -> tuple[frozenset[int], ...]:
    """Return the accepted labels of files such as ILSVRC2012_val_00000001.JPEG."""
    accepted = []
    for path in paths:
        match = _FILE.search(path)
        image_id = int(match[1]) if match else 0
        if not 1 <= image_id <= len(real):
            raise DataError(
                f"{path} is not one of the {len(real):,} validation images that the "
                "labels are about, ILSVRC2012_val_00000001.JPEG and following. "
                "Evaluate the split `test` of imagenet."
            )
        accepted.append(real[image_id - 1])
    return tuple(accepted)


def read_imagenet_real(path: Path, data: str) -> tuple[frozenset[int], ...]:
    """Read real.json for a data set, which must be `imagenet`.

    Raises:
        ConfigError: it is another data set.
        DataError: see `read_real`.
    """
    if data != "imagenet":
        raise ConfigError(
            "`real` holds labels of ImageNet's validation images and goes with the "
            f"data set imagenet alone: got {data}. Leave it out."
        )
    return read_real(path)


def score_table(
    table: Path, classes: Sequence[str], accepted: Sequence[frozenset[int]]
) -> RealAccuracy:
    """Score a table of predictions; `classes` are in ImageNet's order."""
    indices = {name: index for index, name in enumerate(classes)}
    rows = read_predictions(table)
    answers = np.array([indices.get(row.predicted, NO_ANSWER) for row in rows])
    return real_accuracy(answers, accepted_labels([row.path for row in rows], accepted))
