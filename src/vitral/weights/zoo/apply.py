"""Read fetched weights as their record says, where the files say less or other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import vitral.models
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.layouts import with_settings, with_unique_names
from vitral.weights.zoo import cache
from vitral.weights.zoo.record import Record
from vitral.weights.zoo.table import find_record, find_terms

IMAGENET = 1000
"""Outputs of a head for ImageNet-1k, always in the order of its identifiers."""


def apply_record(path: Path, source: WeightsSource) -> WeightsSource:
    """Return the source with what the record of its folder says.

    The record comes before the files: pixels, pooling, the size to run at. Origin and
    licence go into `extra`, which a run and its model card keep. A folder that was not
    fetched stays as it is.
    """
    pin = cache.read_pin(path if path.is_dir() else path.parent)
    if pin is None:
        return source
    repository = pin.name.partition("@")[0]
    record = find_record(pin.name) or find_terms(repository)
    licence = record.licence if record is not None else pin.licence
    pretrained = {"name": pin.name, "source": pin.source, "revision": pin.revision}
    extra: dict[str, Any] = {
        **source.extra,
        "pretrained": {key: value for key, value in pretrained.items() if value},
        **({"license": licence} if licence else {}),
    }
    notes = source.notes + ((f"{pin.name}: {pin.note}",) if pin.note else ())
    source = replace(source, extra=extra, notes=notes)
    return source if record is None else _with_facts(record, source)


def _with_facts(record: Record, source: WeightsSource) -> WeightsSource:
    config = source.config
    if record.classes == config.num_classes == IMAGENET and not source.classes:
        source = with_unique_names(replace(source, classes=_imagenet_names()))
    pixels = record.preprocess(config.image_hw, source.preprocess)
    if pixels != source.preprocess:
        note = f"pixels as {record.name} was trained on them, not as the files say"
        source = replace(source, preprocess=pixels, notes=(*source.notes, note))
    stated = {"global_pool": record.pooling} | (
        {"act": record.act} if record.act else {}
    )
    other = {
        field: value
        for field, value in stated.items()
        if getattr(config, field, value) != value
    }
    if other:
        source = with_settings(source, other)
    if record.run_size == config.image_hw[0]:
        return source
    vitral.models.replace_config(config, {"image_size": record.run_size})
    note = (
        f"runs at {record.run_size} pixels, as its authors do, from a table of "
        f"{config.image_hw[0]}; image_size={config.image_hw[0]} takes the table's own"
    )
    return replace(source, run_size=record.run_size, notes=(*source.notes, note))


def _imagenet_names() -> tuple[str, ...]:
    """Return ImageNet's 1000 classes in words, as torchvision publishes them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
