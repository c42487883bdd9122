"""From a name to a model: ours, or timm's and Hugging Face's for the same thing.

The families are the modules of this room that have a `FAMILY`; a new one is found by
its file, and listed nowhere else.
"""

import dataclasses
import difflib
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


@cache
def families() -> Mapping[str, Family]:
    """Every family by the name of its module, the plain Vision Transformer first."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(vitral.models.__path__):
        content = importlib.import_module(f"vitral.models.{module.name}")
        if isinstance(getattr(content, "FAMILY", None), Family):
            found[module.name] = content.FAMILY
    first = sorted(found, key=lambda name: (name != "vit", name))
    return MappingProxyType({name: found[name] for name in first})


def get_family_name(config: ModelConfig) -> str:
    """The name of the family that a config belongs to."""
    for name, family in families().items():
        if type(config) is family.config:
            return name
    raise ConfigError(f"{type(config).__name__} is the config of no family of models.")


def build_model(config: ModelConfig) -> VisionModel:
    """The model of a config, with fresh weights."""
    return families()[get_family_name(config)].model(config)


@lru_cache(maxsize=16)
def tensor_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """The name and shape of every tensor of a model's state, in order."""
    with meta_init():
        state = build_model(config).state_dict()
    return MappingProxyType({name: tuple(t.shape) for name, t in state.items()})


def names() -> list[str]:
    """The name of every model that is listed, family by family."""
    return [name for family in families().values() for name in family.sizes]


def get_config(name: str, changes: dict[str, Any] | None = None) -> ModelConfig:
    """The settings of a named model, with `changes` to its fields on top.

    Raises:
        ConfigError: nobody's name, or no such setting; the nearest are in the message.
    """
    for family in families().values():
        named = family.resolve_name(name)
        if named is not None:
            fields = {**named.settings, **(changes or {})}
            return config_from_fields(family, fields, f"The model `{name}`")
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.3)
    hint = f" The nearest names are {', '.join(near)};" if near else ""
    raise ConfigError(f"Unknown model `{name}`.{hint} `vitral models` lists all.")


def replace_config(config: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    """The same model with other values of some settings, checked like a new one."""
    family = families()[get_family_name(config)]
    fields = {**config_io.to_dict(config), **changes}
    return config_from_fields(family, fields, "The model with its changes")


def config_from_fields(
    family: Family, fields: dict[str, Any], what: str | Path
) -> ModelConfig:
    """A config of `family`; an unknown setting is an error that names the nearest."""
    known = {field.name for field in dataclasses.fields(family.config)}
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"{family.title} has no setting `{field}`. Did you mean `{near[0]}`?"
            )
    return config_io.from_dict(family.config, fields, what)


def get_model_name(config: ModelConfig) -> str:
    """The name of a model's size and patch; empty if it has none."""
    return families()[get_family_name(config)].get_name(config)


def create(
    name: str,
    num_classes: int = 1000,
    image_size: Size2d | None = None,
    **config_changes: Any,
) -> VisionModel:
    """A model with fresh weights, initialised as in the paper's released code.

    Args:
        name: such as `vit_b16`; see `names()`.
        image_size: pixels, (height, width) or one number; None for the name's own.
        config_changes: fields of the family's config; an unknown one is an error.
    """
    changes = {"num_classes": num_classes, **config_changes}
    if image_size is not None:
        changes["image_size"] = image_size
    return build_model(get_config(name, changes))
