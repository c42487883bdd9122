"""Model registry: build a model by its name, or by timm's or Hugging Face's name.

The families are the modules of this package that have a `FAMILY`, discovered by file.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import vitral.models
from vitral import config_io
from vitral.errors import ConfigError
from vitral.models.base import Family, ModelConfig, Size2d, VisionModel
from vitral.models.meta_init import meta_init
from vitral.validation import nearest_names


@cache
def families() -> Mapping[str, Family]:
    """Return every family by its module's name, the plain Vision Transformer first."""
    by_name: dict[str, Family] = {}
    for module in pkgutil.iter_modules(vitral.models.__path__):
        content = importlib.import_module(f"vitral.models.{module.name}")
        if isinstance(getattr(content, "FAMILY", None), Family):
            by_name[module.name] = content.FAMILY
    ordered = sorted(by_name, key=lambda name: (name != "vit", name))
    return MappingProxyType({name: by_name[name] for name in ordered})


def get_family_name(config: ModelConfig) -> str:
    """Return the name of the family of a config."""
    for name, family in families().items():
        if type(config) is family.config:
            return name
    raise ConfigError(f"{type(config).__name__} is the config of no family of models.")


def build_model(config: ModelConfig) -> VisionModel:
    """Build the model of a config, with fresh weights."""
    return families()[get_family_name(config)].model(config)


@lru_cache(maxsize=16)
def tensor_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a model's state, in order."""
    with meta_init():
        state = build_model(config).state_dict()
    return MappingProxyType({name: tuple(t.shape) for name, t in state.items()})


def names() -> list[str]:
    """Return the name of every listed model, family by family."""
    return [name for family in families().values() for name in family.sizes]


def get_config(name: str, changes: dict[str, Any] | None = None) -> ModelConfig:
    """Return the settings of a named model, with `changes` to its fields.

    Raises:
        ConfigError: unknown name, or no such setting; the nearest are in the message.
    """
    for family in families().values():
        settings = family.resolve_name(name)
        if settings is not None:
            fields = {**settings, **(changes or {})}
            return config_from_fields(family, fields, f"The model `{name}`")
    near = nearest_names(name, names(), count=3, cutoff=0.3)
    hint = f" The nearest names are {', '.join(near)};" if near else ""
    raise ConfigError(f"Unknown model `{name}`.{hint} `vitral models` lists all.")


def replace_config(config: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    """Return the settings with changes, checked like new ones."""
    family = families()[get_family_name(config)]
    fields = {**config_io.to_dict(config), **changes}
    return config_from_fields(family, fields, "The model with its changes")


def config_from_fields(
    family: Family, fields: dict[str, Any], what: str | Path
) -> ModelConfig:
    """Build a config of `family`; an error for an unknown setting names the nearest."""
    fields = family.rename_fields(fields)
    field_names = {field.name for field in dataclasses.fields(family.config)}
    for field in fields:
        if field not in field_names:
            near = nearest_names(field, field_names, count=1, cutoff=0.0)
            raise ConfigError(
                f"{family.title} has no setting `{field}`. Did you mean `{near[0]}`?"
            )
    return config_io.from_dict(family.config, fields, what)


def get_model_name(config: ModelConfig) -> str:
    """Return the name of a model's size and patch; empty if it has none."""
    return families()[get_family_name(config)].get_name(config)


def create(
    name: str,
    num_classes: int = 1000,
    image_size: Size2d | None = None,
    **config_changes: Any,
) -> VisionModel:
    """Build a model with fresh weights, initialised as in the paper's released code.

    Args:
        name: such as `vit_b16`; see `names()`.
        image_size: pixels, (height, width) or one number; None for the name's own.
        config_changes: fields of the family's config; an unknown one is an error.
    """
    changes = {"num_classes": num_classes, **config_changes}
    if image_size is not None:
        changes["image_size"] = image_size
    return build_model(get_config(name, changes))
