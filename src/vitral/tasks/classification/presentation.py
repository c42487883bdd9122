"""A classifier's part of the server's description and page."""

from collections.abc import Mapping
from typing import Any

from vitral.tasks.classification.answer import read_temperature
from vitral.tasks.classification.labels import ClassLabels
from vitral.tasks.presentation import Display, Fact, Field, Presentation


def present_classes(labels: ClassLabels, metadata: Mapping[str, Any]) -> Presentation:
    """Return the fields of a prediction, the facts of a classifier and its bars."""
    return Presentation(
        fields={
            "label": Field(str),
            "confidence": Field(float),
            "probabilities": Field(dict[str, float], "calibrated, best first"),
        },
        facts={
            "classes": Fact(list(labels.names), list[str]),
            "multi_label": Fact(labels.multi_label),
            "temperature": Fact(read_temperature(metadata, labels)),
        },
        summary="Labels and calibrated probabilities of one image",
        listed="classes",
        outputs_name="logits",
        outputs=Field(list[float], "before calibration"),
        display=Display(
            title="label",
            placeholder="none of the classes",
            bars="probabilities",
            explained="the first class",
        ),
    )
