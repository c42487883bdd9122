"""`problem_type` of transformers' config.json: how the head's outputs are read.

It travels as plain data, under the same key of a model's extra. Tasks decide what
it means.
"""

from collections.abc import Mapping
from typing import Any

from vitral.errors import WeightsError
from vitral.weights.checkpoint_facts import LayoutInput

KEY = "problem_type"
SINGLE_LABEL = "single_label_classification"
VALUES = ("regression", SINGLE_LABEL, "multi_label_classification")
"""All values that each version of transformers loads; several refuse any other."""


def read_problem_type(opened: LayoutInput) -> dict[str, Any]:
    """Return the extra of a model: its `problem_type`, or nothing without one.

    Raises:
        WeightsError: it is no text.
    """
    value = opened.config_json.get(KEY)
    if value is None:
        return {}
    if not isinstance(value, str):
        raise WeightsError(
            f"{opened.path.with_name('config.json')}: `{KEY}` is {value!r}, expected "
            f"{', '.join(VALUES)} or null. Write the one that the model was trained "
            "for; nothing was loaded."
        )
    return {KEY: value}


def problem_type_field(extra: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Return the field of config.json; none where transformers would refuse it."""
    value = extra.get(KEY)
    # transformers refuses the choice of one label where there is only one.
    refused = value not in VALUES or (value == SINGLE_LABEL and num_classes == 1)
    return {} if refused else {KEY: value}
