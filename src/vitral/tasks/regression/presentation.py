"""A regression model's part of the server's description and page."""

from collections.abc import Mapping
from typing import Any

from vitral.tasks.presentation import Display, Fact, Field, Presentation
from vitral.tasks.regression.answer import HALF_WIDTH, field_names
from vitral.tasks.regression.labels import NumberLabels

LOW = "least number of the 90 % interval; null without one"
HIGH = "greatest number of the 90 % interval; null without one"


def present_numbers(labels: NumberLabels, metadata: Mapping[str, Any]) -> Presentation:
    """Return the fields of an answer, the facts of a model, and its interval."""
    fields: dict[str, Field] = {}
    for name in labels.names:
        value, low, high = field_names(name, labels.names)
        fields[value] = Field(float, f"{name}, in the units of the table")
        fields |= {low: Field(float | None, LOW), high: Field(float | None, HIGH)}
    only = field_names(labels.names[0], labels.names) if len(labels.names) == 1 else []
    return Presentation(
        fields=fields,
        facts={
            "outputs": Fact(list(labels.names), list[str]),
            "target_mean": Fact(list(labels.mean), list[float]),
            "target_std": Fact(list(labels.std), list[float]),
            HALF_WIDTH: Fact(metadata.get(HALF_WIDTH), list[float | None] | None),
        },
        summary="Numbers of one image with their 90 % intervals",
        outputs=Field(list[float], "numbers in deviations from the mean of train"),
        display=Display(
            title=only[0] if only else "",
            interval=tuple(only[1:]),
            explained="the number" if only else "the first number",
        ),
    )
