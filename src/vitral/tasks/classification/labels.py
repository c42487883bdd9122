"""Class labels of a data set or a model: one class an image, or several."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vitral.data import Dataset
from vitral.data.names import canonical_class
from vitral.errors import DataError, WeightsError
from vitral.json_file import shorten
from vitral.tasks.labels import Labels

PROBLEM_TYPES = {
    False: "single_label_classification",
    True: "multi_label_classification",
}
"""Hugging Face's words, by `ClassLabels.multi_label`."""


@dataclass(frozen=True, kw_only=True)
class ClassLabels(Labels):
    """Classes in the order of the outputs."""

    multi_label: bool = False
    """True if an image may have several classes, or none."""

    def extra(self) -> dict[str, Any]:
        return {"multi_label": self.multi_label}

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "ClassLabels":
        """Read the classes of a data set. Soft shares make one label of several."""
        return cls(names=dataset.classes, multi_label=_is_multi_label(dataset))

    @classmethod
    def from_extra(
        cls, names: tuple[str, ...], extra: Mapping[str, Any]
    ) -> "ClassLabels":
        """Read the classes of a stored model, of ours or of Hugging Face."""
        stored = extra.get("multi_label")
        if stored is not None and not isinstance(stored, bool):
            raise WeightsError(
                f"The model's `multi_label` is {shorten(stored)}, expected true or "
                "false: its config.json was edited. Copy it from where the model was "
                "made."
            )
        if stored is None:
            stored = extra.get("problem_type") == PROBLEM_TYPES[True]
        return cls(names=names, multi_label=bool(stored))


def require_two_classes(dataset: Dataset, data: str) -> None:
    """Refuse a data set with one class.

    Raises:
        DataError: the data set has one class.
    """
    if len(dataset.classes) < 2:
        raise DataError(
            f"{data} has one class, {dataset.classes[0]}: a classifier needs at "
            f"least two. Put the {dataset.kind} of each class into a folder of its own."
        )


def match_classes(labels: Labels, dataset: Dataset) -> Dataset:
    """Return the data set with the model's class indices, matched by name.

    Raises:
        DataError: the data has a class that the model does not know.
    """
    # Models of earlier versions keep the Unicode form that their folders had.
    places = {canonical_class(name): at for at, name in enumerate(labels.names)}
    unknown = [name for name in dataset.classes if canonical_class(name) not in places]
    if unknown:
        raise DataError(
            f"The data has the class {unknown[0]}, which the model does not know: it "
            f"knows {', '.join(labels.names)}. Rename the folder, or remove it."
        )
    if dataset.classes == labels.names:
        return dataset
    new_indices = [places[canonical_class(name)] for name in dataset.classes]

    def remap(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new_indices[index] for index in indices)

    examples = tuple(
        replace(example, label=remap(example.label), target=None)
        for example in dataset.examples
    )
    bad = tuple(replace(file, label=remap(file.label)) for file in dataset.bad)
    return replace(dataset, classes=labels.names, examples=examples, bad=bad)


def _is_multi_label(dataset: Dataset) -> bool:
    pairs = [(item.label, item.target) for item in dataset.examples]
    pairs += [(file.label, file.target) for file in dataset.bad]
    return any(len(label) != 1 and target is None for label, target in pairs)
