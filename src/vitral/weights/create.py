"""Create a model by its name, with fresh or pre-trained weights."""

from typing import Any

import vitral.models
from vitral.errors import ConfigError
from vitral.models import Size2d, VisionModel
from vitral.weights import zoo
from vitral.weights.load import build, read


def create(
    name: str,
    num_classes: int | None = None,
    image_size: Size2d | None = None,
    *,
    pretrained: bool = False,
    **config_changes: Any,
) -> VisionModel:
    """Build a model, initialised as in the paper's released code or pre-trained.

    Args:
        name: a size such as `vit_b16`; see `names()`. With `pretrained` also the name
            of weights, such as `dinov2_s14`.
        num_classes: outputs; None for 1000, or for those of the pre-trained head.
        image_size: pixels, (height, width) or one number; None for the name's own.
        pretrained: take the weights that the table of named weights marks for this
            model; they are fetched once.
        config_changes: fields of the family's config; an unknown one is an error.

    Raises:
        ConfigError: the name or a setting is unknown.
        WeightsError: there are no such weights, several, or they cannot be had.
    """
    if not pretrained:
        outputs = 1000 if num_classes is None else num_classes
        return vitral.models.create(name, outputs, image_size, **config_changes)
    record = zoo.find_record(name) if name not in vitral.models.names() else None
    record = record or zoo.find_default(_model_name(name))
    source = read(record.name)
    changes = dict(config_changes)
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if image_size or source.run_size:
        changes["image_size"] = image_size or source.run_size
    config = vitral.models.replace_config(source.config, changes)
    return build(source, config).model


def _model_name(name: str) -> str:
    """Return vitral's name of a model that may have another library's."""
    if name in vitral.models.names():
        return name
    own = vitral.models.get_model_name(vitral.models.get_config(name))
    if not own:
        raise ConfigError(
            f"`{name}` is a model without a size by name, so that no weights are "
            "marked for it. Name the weights: `vitral weights list` has them."
        )
    return own
